package holepunch

import (
	"fmt"
	"slices"
	"time"
)

// Poll returns the packets to send now, and when to call again; a zero time means
// not before something else happens. Idle, it costs one comparison.
func (s *Session) Poll(now time.Time) ([]Outgoing, time.Time) {
	s.now = later(s.now, now)
	if !s.dirty && (s.wake.IsZero() || now.Before(s.wake)) {
		return nil, s.wake
	}
	s.prunePending(now)
	for s.stepDue(now) { // one path's failure may make another one due
	}
	out := s.out
	s.out, s.dirty, s.wake = nil, false, s.deadline(now)
	return out, s.wake
}

// stepDue steps the paths that are due, as far as the round allows, and reports whether
// there was one.
func (s *Session) stepDue(now time.Time) bool {
	any := false
	for _, p := range s.due(now) {
		if p.run.next.IsZero() || p.run.next.After(now) {
			continue // an earlier step moved it
		}
		if p.ordinary() && !s.spend(now) {
			continue // its turn comes in the next round
		}
		s.step(now, p)
		any = true
	}
	return any
}

// due lists the paths whose time has come: those that waited longest first, and
// among equals by rank.
func (s *Session) due(now time.Time) []*path {
	var due []*path
	for _, p := range s.paths {
		if !p.run.next.IsZero() && !p.run.next.After(now) {
			due = append(due, p)
		}
	}
	slices.SortStableFunc(due, func(a, b *path) int { return a.run.next.Compare(b.run.next) })
	return due
}

// ordinary checks are counted against the round; what concerns a path that works or
// that the peer was just heard on is not.
func (p *path) ordinary() bool { return p.state != Heard && p.state != Confirmed }

// spend takes one check out of the round's budget, if there is one left.
func (s *Session) spend(now time.Time) bool {
	if now.Sub(s.round.began) >= s.cfg.Pace {
		s.round = round{began: now}
	}
	if s.round.sent >= maxRound {
		return false
	}
	s.round.sent++
	return true
}

// deadline is the earliest time at which step has something to do.
func (s *Session) deadline(now time.Time) time.Time {
	var next time.Time
	for _, p := range s.paths {
		at := p.run.next
		if at.IsZero() {
			continue
		}
		if !at.After(now) { // over budget: the next round
			at = s.round.began.Add(s.cfg.Pace)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// step does what is due on p: sends a check and sets the next time, or changes state.
func (s *Session) step(now time.Time, p *path) {
	switch p.state {
	case Waiting:
		if now.Before(s.cfg.Start) && p.startsTogether() {
			s.opener(now, p)
			return
		}
		s.setState(now, p, Checking, "")
		s.check(now, p)
	case Checking:
		switch {
		case now.Sub(p.run.started) >= s.cfg.Duration:
			s.setState(now, p, Failed, unanswered(now, p))
		case s.needless(now, p):
			s.setState(now, p, Waiting, unanswered(now, p)+", then another path worked")
		default:
			s.check(now, p)
		}
	case Heard:
		if now.Sub(p.run.started) >= consent {
			s.setState(now, p, Failed, p.whyNot(now))
			return
		}
		s.check(now, p)
	case Confirmed:
		s.keepalive(now, p)
	case Failed:
		s.recheck(now, p)
	}
}

// setState is the only place where a state changes. It says what is due next.
func (s *Session) setState(now time.Time, p *path, to State, why string) {
	from := p.state
	if from != to {
		s.version++
	}
	p.state = to
	if why != "" {
		p.why = why
	}
	if from == Confirmed && (to == Failed || to == Checking) {
		p.doubtedAt = now
	}
	switch to {
	case Waiting:
		p.run = run{}
	case Checking:
		p.run = run{started: now, next: now}
	case Heard:
		p.doubtedAt = now
		p.run = run{started: now, next: now}
	case Confirmed:
		s.enterConfirmed(now, p, from)
	case Failed:
		s.enterFailed(now, p, from)
	}
	if (from == Confirmed) != (to == Confirmed) {
		s.reconsider(now)
	} else if to == Failed {
		s.planRecheck(now, p)
	}
}

// enterFailed tells the peer, in case only its packets arrive and ours do not: it must
// not go on sending data to nowhere until it finds out by itself.
func (s *Session) enterFailed(now time.Time, p *path, from State) {
	if from == Confirmed && s.hasBase(p.Base) {
		s.ping(now, p)
	}
	p.run = run{started: now}
}

// enterConfirmed ends what was under way. A path that was not confirmed before is checked
// once more at once, which tells the peer that we are, and measures the round trip a second time.
func (s *Session) enterConfirmed(now time.Time, p *path, from State) {
	p.doubtedAt = time.Time{}
	p.run = run{started: now}
	wait := s.cfg.Keepalive
	if from != Confirmed {
		p.confirmedAt = now
		s.ping(now, p)
		p.run.tries = 0 // not a probe: it may stay unanswered
		wait = min(wait, settle)
	}
	if s.cfg.Keepalive > 0 {
		p.run.next = now.Add(wait)
	}
}

// check sends one check of a run and sets the time of the next.
func (s *Session) check(now time.Time, p *path) {
	s.ping(now, p)
	p.run.next = now.Add(p.interval(now, s.cfg.Pace))
	limit := s.cfg.Duration
	if p.state == Heard {
		limit = consent
	}
	if end := p.run.started.Add(limit); p.run.next.After(end) {
		p.run.next = end
	}
}

// interval is the time from this check to the next one of the same run: Pace during
// fastPhase, then 50, 100, 200 ms … 1 s. Both sides must be knocking while the other's hole
// is young, and a lost check must not cost more than a round.
func (p *path) interval(now time.Time, pace time.Duration) time.Duration {
	fast, first, most := now.Sub(p.run.started) < fastPhase, firstBackoff, maxBackoff
	if p.rank == rankRare && p.state != Heard {
		fast, first, most = p.run.tries < rareRounds, rareBackoff, rareMax
	}
	if fast {
		return pace
	}
	p.run.backoff = min(max(2*p.run.backoff, first), most)
	return p.run.backoff
}

// keepalive sends the periodic check of a path that works, retransmits it, and fails
// the path when nothing comes back.
func (s *Session) keepalive(now time.Time, p *path) {
	switch {
	case p.run.tries == 0 && s.wanted(p):
		s.probe(now, p)
	case p.run.tries == 0 && now.Sub(p.lastPing) < s.cfg.Keepalive: // the peer keeps it, without our help
		p.run.next = now.Add(s.cfg.Keepalive)
	case p.run.tries == 0:
		s.setState(now, p, Waiting, "worked, not needed now")
	case p.run.tries < probeTries:
		s.probe(now, p)
	default:
		s.setState(now, p, Failed, fmt.Sprintf("worked, then no answer to %s sent to %v in %s; last heard %s ago",
			plural(p.run.tries, "probe"), p.Remote, seconds(now.Sub(p.run.started)), seconds(now.Sub(p.lastHeard))))
	}
}

// probe sends one probe and sets the time of the next, or of the verdict. A keepalive gives the first the
// time that an answer takes, and then hurries. Where the owner suspects something (run.backoff is set then)
// all leave at once: data is being sent to nowhere, and a false alarm costs little because a late answer
// still confirms the path.
func (s *Session) probe(now time.Time, p *path) {
	if p.run.tries == 0 {
		p.run = run{started: now, backoff: p.run.backoff}
	}
	s.ping(now, p)
	wait := max(p.tally.rtt/2, minProbe)
	switch {
	case p.run.tries >= probeTries:
		p.run.next = later(now.Add(p.tally.timeout()), p.run.started.Add(minVerdict))
		return
	case p.run.backoff != 0:
		wait = p.run.backoff
	case p.run.tries == 1:
		wait = max(p.tally.rtt*6/5, minProbe)
	}
	p.run.next = now.Add(wait)
}

// recheck is the slow cadence of a failed path that would be an improvement.
func (s *Session) recheck(now time.Time, p *path) {
	s.ping(now, p)
	p.run.backoff = min(2*p.run.backoff, maxRecheck)
	if s.improves(p) {
		p.run.next = now.Add(max(p.run.backoff, firstRevive))
	} else {
		p.run.next = time.Time{}
	}
}

// planRecheck starts or stops the slow cadence.
func (s *Session) planRecheck(now time.Time, p *path) {
	switch {
	case !s.improves(p):
		p.run.next = time.Time{}
	case p.run.next.IsZero():
		p.run.backoff = firstRecheck
		if !p.confirmedAt.IsZero() {
			p.run.backoff = firstRevive
		}
		p.run.next = now.Add(p.run.backoff)
	}
}

// reconsider follows the coming or going of a path that works: failed ones are
// rechecked if they are wanted now, and spares are tried when nothing works.
func (s *Session) reconsider(now time.Time) {
	working := s.confirmed(Relay) > 0
	for _, p := range s.paths {
		switch {
		case p.state == Failed:
			s.planRecheck(now, p)
		case p.state == Waiting && !working && p.run.next.IsZero():
			p.run.next = later(now, s.cfg.Start)
		}
	}
}

// improves reports whether it would help if the failed path p worked: it is of a kind that
// we lack while something works, or all that ever worked is gone.
func (s *Session) improves(p *path) bool {
	if !s.hasBase(p.Base) {
		return false
	}
	straight := s.confirmed(Direct)
	relayed := s.confirmed(Relay) - straight
	switch {
	case straight+relayed == 0:
		return slices.ContainsFunc(s.paths, func(q *path) bool { return !q.confirmedAt.IsZero() })
	case p.kind == Relay:
		return relayed == 0 && !p.confirmedAt.IsZero()
	}
	return straight == 0
}

// confirmed counts the paths that work and are of kind k or better.
func (s *Session) confirmed(k PathKind) int {
	n := 0
	for _, p := range s.paths {
		if p.state == Confirmed && p.kind <= k {
			n++
		}
	}
	return n
}

// needless reports whether p, unanswered so far, need not be checked on: one of its kind or
// better works and had time to settle, or two relays, of which one may die.
func (s *Session) needless(now time.Time, p *path) bool {
	kind, need := p.kind, 1
	if kind == Relay {
		need = 2
	}
	for _, q := range s.paths {
		if q.state == Confirmed && now.Sub(q.confirmedAt) >= settle && q.kind <= kind && (kind != Relay || q.kind == Relay) {
			need--
		}
	}
	return need <= 0
}

// wanted reports whether p is kept alive: the active path, and the two best of each
// sort beside it, relayed and not.
func (s *Session) wanted(p *path) bool {
	if p.Path == s.active {
		return true
	}
	better, relay := 0, p.kind == Relay
	for _, q := range s.paths {
		if q != p && q.state == Confirmed && (q.kind == Relay) == relay && s.ahead(q, p) {
			better++
		}
	}
	return better < 2
}

// ahead orders working paths: better kind, then shorter round trip, then rank.
func (s *Session) ahead(a, b *path) bool {
	if a.kind != b.kind {
		return a.kind < b.kind
	}
	if a.tally.rtt != b.tally.rtt {
		return a.tally.rtt < b.tally.rtt
	}
	return slices.Index(s.paths, a) < slices.Index(s.paths, b)
}
