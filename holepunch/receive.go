package holepunch

import (
	"fmt"
	"slices"
	"time"
)

// Receive takes a packet that arrived at from.Base out of from.Remote. It fails
// with ErrMalformed or ErrForged for what is not a check of our peer, ErrReplay for an old one, ErrForbidden or
// ErrLimit for a source that is not learned, ErrNoBase. A failed packet changes nothing. After success
// call Poll: an answer may wait.
func (s *Session) Receive(now time.Time, from Path, b []byte) error {
	from.Remote = unmap(from.Remote)
	c, err := s.keys.open(b)
	if err != nil {
		return err
	}
	if base, ok := s.bases[from.Base]; !ok || !base.Families.Has(from.Remote.Addr()) {
		return fmt.Errorf("%w: %d", ErrNoBase, from.Base)
	}
	if err := punchable(from.Remote, s.cfg.Loopback); err != nil {
		return err
	}
	// Before anything is learned: a replayed check must not validate a path from
	// another address.
	if !s.window.accept(c.counter) {
		return fmt.Errorf("%w: check %d from %v", ErrReplay, c.counter, from.Remote)
	}
	s.tick(now)
	if c.typ == pong {
		return s.receivePong(now, from, c)
	}
	return s.receivePing(now, from, c)
}

// receivePing answers and, on a path that does not work yet, checks it at once in
// the other direction: RFC 8445 section 7.3.1.4, "a triggered check".
func (s *Session) receivePing(now time.Time, from Path, c check) error {
	p := s.byPath[from]
	if p == nil {
		if p = s.learn(now, from); p == nil {
			return fmt.Errorf("%w: peer-reflexive candidate %v", ErrLimit, from.Remote)
		}
	}
	s.heard(now, p, c)
	p.lastPing = now
	switch p.state {
	case Waiting, Checking, Failed:
		if p.doubtedAt.IsZero() {
			s.setState(now, p, Heard, "")
		} else if p.state != Checking { // only an answer makes it usable again
			s.setState(now, p, Checking, "")
		}
	case Confirmed:
		if c.flags&flagUnanswered != 0 {
			s.setState(now, p, Checking, fmt.Sprintf("worked, then %v said that nothing of ours arrives", p.Remote))
		}
	case Heard:
	}
	if len(s.out) >= maxQueued {
		return fmt.Errorf("%w: %d packets wait for Poll", ErrLimit, len(s.out))
	}
	s.send(p, check{typ: pong, txid: c.txid, observed: from.Remote}, 0)
	return nil
}

// receivePong accepts the answer to our own ping on this very path: RFC 8445 section
// 7.2.5.2.1 wants "the source and destination transport addresses" to be symmetric.
func (s *Session) receivePong(now time.Time, from Path, c check) error {
	ping, ok := s.pending[c.txid]
	if !ok || s.byPath[from] != ping.path {
		return fmt.Errorf("%w: no check is waiting for this answer from %v", ErrReplay, from.Remote)
	}
	delete(s.pending, c.txid)
	p := ping.path
	s.heard(now, p, c)
	p.answeredAt = now
	p.tally.observed = c.observed
	p.tally.addRTT(now.Sub(ping.at))
	s.setState(now, p, Confirmed, "")
	return nil
}

// heard notes what every authentic check proves and says.
func (s *Session) heard(now time.Time, p *path, c check) {
	p.lastHeard = now
	p.tally.received++
	p.tally.sendErrs = 0
	p.tally.peerConfirmed = c.flags&flagConfirmed != 0
	if c.flags&flagRelayed != 0 && p.remote.kind != Relayed {
		s.relabel(p.remote, Relayed, p.remote.via)
	}
}

// learn makes a peer-reflexive path: RFC 8445 section 7.3.1.3, "If the source
// transport address of the request does not match any existing remote candidates".
func (s *Session) learn(now time.Time, from Path) *path {
	if r := s.findRemote(from.Remote); r != nil {
		return s.addPath(now, from.Base, r)
	}
	n := 0
	for _, r := range s.remotes {
		if r.kind == PeerReflexive {
			n++
		}
	}
	if n >= MaxPeerReflexive && !s.forgetFailed() {
		return nil
	}
	r := &remote{addr: from.Remote, kind: PeerReflexive}
	p := s.addPath(now, from.Base, r)
	if p != nil {
		s.remotes = append(s.remotes, r)
	}
	return p
}

// forgetFailed makes room: it drops the peer-reflexive remote that failed and was
// not heard for the longest time, and reports whether there was one.
func (s *Session) forgetFailed() bool {
	var oldest *path
	for _, p := range s.paths {
		if p.remote.kind == PeerReflexive && p.state == Failed && (oldest == nil || p.lastHeard.Before(oldest.lastHeard)) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	gone := oldest.remote
	s.remotes = slices.DeleteFunc(s.remotes, func(r *remote) bool { return r == gone })
	s.paths = slices.DeleteFunc(s.paths, func(p *path) bool {
		if p.remote == gone {
			delete(s.byPath, p.Path)
		}
		return p.remote == gone
	})
	s.version++
	return true
}

// addRTT smooths as RFC 6298 section 2 does, with alpha = 1/8 and beta = 1/4.
func (t *tally) addRTT(sample time.Duration) {
	sample = max(sample, time.Microsecond)
	if t.rtt == 0 {
		t.rtt, t.rttVar = sample, sample/2
		return
	}
	t.rttVar += ((t.rtt - sample).Abs() - t.rttVar) / 4
	t.rtt += (sample - t.rtt) / 8
}

// timeout is how long an answer may take: RFC 6298's RTO, without its minimum of a second.
func (t *tally) timeout() time.Duration { return min(t.rtt+4*t.rttVar, maxTimeout) }
