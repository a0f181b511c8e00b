package holepunch

import "time"

// ping seals a check of ours over p.
func (s *Session) ping(now time.Time, p *path) { s.pingTTL(now, p, 0) }

// opener sends a check that is to die beyond our own NAT.
func (s *Session) opener(now time.Time, p *path) {
	s.pingTTL(now, p, s.cfg.OpenerTTL)
	p.run.next = s.cfg.Start
	if again := now.Add(openerPace); again.Before(s.cfg.Start) {
		p.run.next = again
	}
}

func (s *Session) pingTTL(now time.Time, p *path, ttl int) {
	txid := newTransaction()
	if len(s.pending) < maxPending {
		s.pending[txid] = pendingPing{p, now}
	}
	p.run.tries++
	s.send(p, check{typ: ping, txid: txid}, ttl)
}

// send seals c and queues it for Poll.
func (s *Session) send(p *path, c check, ttl int) {
	s.counter++
	c.counter = s.counter
	if p.Base != 0 {
		c.flags |= flagRelayed
	}
	if p.state == Confirmed {
		c.flags |= flagConfirmed
	}
	if p.state == Failed && !p.confirmedAt.IsZero() {
		c.flags |= flagUnanswered
	}
	p.tally.sent++
	s.out = append(s.out, Outgoing{Path: p.Path, TTL: ttl, Bytes: s.keys.seal(make([]byte, 0, CheckSize), c)})
}

// prunePending forgets, once a second, pings whose pong is overdue.
func (s *Session) prunePending(now time.Time) {
	if now.Sub(s.pruned) < time.Second {
		return
	}
	s.pruned = now
	for txid, ping := range s.pending {
		if now.Sub(ping.at) >= pendingFor {
			delete(s.pending, txid)
		}
	}
}
