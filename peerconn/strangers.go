package peerconn

import (
	"net/netip"
	"sync"
	"time"
)

// strangers bounds what hostile offers can make this host send: an offer may name
// the addresses of a third machine, and checks go there although nobody asked that
// machine. An address that has never proved by an authenticated check that a peer
// of ours is there shares one small budget over all calls; one that has is free.
type strangers struct {
	mu     sync.Mutex // guards what follows
	known  map[netip.Addr]*stranger
	others stranger  // all addresses together that known has no room for
	forgot time.Time // when room was made last
}

// stranger is a token bucket, or an address that has proved itself lately.
type stranger struct {
	tokens float64
	at     time.Time // when tokens was right, or the proof
	proof  bool
}

const (
	strangerBurst  = 300 // checks: one call may spend about 230 on 8 candidates of one address
	strangerRate   = 20  // checks a second after that
	strangerProof  = 10 * time.Minute
	strangerMemory = 4096 // addresses
)

// allow reports whether a check may be sent to a now, and counts it.
func (s *strangers) allow(a netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(a, now)
	if e == nil {
		e = &s.others
	}
	if e.proof && now.Sub(e.at) < strangerProof {
		return true
	}
	if e.proof {
		*e = stranger{tokens: strangerBurst, at: now}
	}
	e.tokens = min(strangerBurst, e.tokens+now.Sub(e.at).Seconds()*strangerRate)
	e.at = now
	if e.tokens < 1 {
		return false
	}
	e.tokens--
	return true
}

// proved notes an authenticated check from a.
func (s *strangers) proved(a netip.Addr, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entry(a, now); e != nil {
		*e = stranger{at: now, proof: true}
	}
}

// entry finds or makes the entry of a; nil where the memory is full of others
// that are still in use.
func (s *strangers) entry(a netip.Addr, now time.Time) *stranger {
	if e := s.known[a]; e != nil {
		return e
	}
	if s.known == nil {
		s.known = make(map[netip.Addr]*stranger)
	}
	if len(s.known) >= strangerMemory && now.Sub(s.forgot) >= time.Second { // it looks at all
		s.forgot = now
		s.forget(now)
	}
	if len(s.known) >= strangerMemory {
		return nil
	}
	e := &stranger{tokens: strangerBurst, at: now}
	s.known[a] = e
	return e
}

// forget drops the entries that say no more than a new one would.
func (s *strangers) forget(now time.Time) {
	for a, e := range s.known {
		idle := now.Sub(e.at)
		if e.proof && idle >= strangerProof || !e.proof && idle.Seconds()*strangerRate >= strangerBurst {
			delete(s.known, a)
		}
	}
}
