package peerconn

import (
	"sync/atomic"
	"time"
)

// silence notices that data is sent and nothing comes back. QUIC answers
// whatever carries data within its acknowledgement delay, so silence longer than
// that and a round trip is a reason to look into the path, long before QUIC's own
// timers say anything. It is written on the data path: a few atomics, no lock.
//
// Two silences are told apart. Nothing at all from the peer is always suspicious.
// Something, but not over the path that we send on, is so at first: the peer may
// have left a path that is dead only in our direction. It may also simply prefer
// another one, so each time that our path turns out well the next look is later.
type silence struct {
	total    atomic.Int64 // when the first datagram was sent that nothing followed, Unix ns; 0: none
	here     atomic.Int64 // the same, counting only what arrives over the path in use
	watching atomic.Bool  // the route's goroutine looks in by itself
	probed   atomic.Int64 // when suspicion was last raised, Unix ns
	calm     atomic.Int32 // how often in a row suspicion was unfounded
}

const (
	silenceFloor = 60 * time.Millisecond
	silenceTick  = 30 * time.Millisecond
	silenceAgain = 500 * time.Millisecond // between suspicions
	maxCalm      = 5                      // doublings of silenceAgain, where only the path in use is silent
)

// sent notes an outgoing datagram; true means that the goroutine must be woken
// to watch.
func (s *silence) sent(now time.Time) bool {
	if s.total.Load() != 0 && s.here.Load() != 0 {
		return false
	}
	s.total.CompareAndSwap(0, now.UnixNano())
	s.here.CompareAndSwap(0, now.UnixNano())
	return !s.watching.Swap(true)
}

// heard notes an incoming datagram, over the path in use or another.
func (s *silence) heard(here bool) {
	if s.total.Load() != 0 {
		s.total.Store(0)
	}
	if here && s.here.Load() != 0 {
		s.here.Store(0)
	}
}

// suspicious reports, once in a while, that the peer has been silent for too
// long on a path of that round trip.
func (s *silence) suspicious(now time.Time, rtt time.Duration) bool {
	limit := max(silenceFloor, rtt*3/2+silenceTick)
	again := silenceAgain
	switch {
	case overdue(now, s.total.Load(), limit):
	case overdue(now, s.here.Load(), limit):
		again <<= min(s.calm.Load(), maxCalm)
	default:
		return false
	}
	if last := s.probed.Load(); last != 0 && !overdue(now, last, again) {
		return false
	}
	s.probed.Store(now.UnixNano())
	return true
}

// overdue reports whether limit has passed since a moment that was; zero never
// was.
func overdue(now time.Time, since int64, limit time.Duration) bool {
	return since != 0 && now.UnixNano()-since >= int64(limit)
}

// unfounded notes that a suspicion was not confirmed.
func (s *silence) unfounded() {
	if s.calm.Load() < maxCalm {
		s.calm.Add(1)
	}
}

// moved begins anew on another path.
func (s *silence) moved() {
	s.calm.Store(0)
	s.here.Store(0)
}

// next returns when the goroutine should look in again, and stops watching
// where everything was answered.
func (s *silence) next() time.Duration {
	if s.waiting() {
		return silenceTick
	}
	s.watching.Store(false)
	if s.waiting() && !s.watching.Swap(true) {
		return silenceTick // sent in between
	}
	return idleStep
}

func (s *silence) waiting() bool { return s.total.Load() != 0 || s.here.Load() != 0 }
