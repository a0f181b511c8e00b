package peerconn

import (
	"sync/atomic"
	"time"
)

// silence notices that data is sent and nothing comes back. QUIC answers
// whatever carries data within its acknowledgement delay, so silence longer than
// that and a round trip is a reason to look into the path, long before QUIC's own
// timers say anything. It is written on the data path: two atomics, no lock.
type silence struct {
	unanswered atomic.Int64 // when the first datagram was sent that nothing followed, Unix ns; 0: none
	watching   atomic.Bool  // the route's goroutine looks in by itself
	probed     atomic.Int64 // when suspicion was last raised, Unix ns
}

const (
	silenceFloor = 60 * time.Millisecond
	silenceTick  = 30 * time.Millisecond
	silenceAgain = 500 * time.Millisecond // between suspicions
)

// sent notes an outgoing datagram; true means that the goroutine must be woken
// to watch.
func (s *silence) sent(now time.Time) bool {
	if s.unanswered.Load() != 0 {
		return false
	}
	s.unanswered.Store(now.UnixNano())
	return !s.watching.Swap(true)
}

// heard notes an incoming datagram.
func (s *silence) heard() {
	if s.unanswered.Load() != 0 {
		s.unanswered.Store(0)
	}
}

// suspicious reports, once in a while, that the peer has been silent for too
// long on a path of that round trip.
func (s *silence) suspicious(now time.Time, rtt time.Duration) bool {
	since := s.unanswered.Load()
	if since == 0 || now.UnixNano()-since < int64(max(silenceFloor, rtt*3/2+silenceTick)) {
		return false
	}
	if now.UnixNano()-s.probed.Load() < int64(silenceAgain) {
		return false
	}
	s.probed.Store(now.UnixNano())
	return true
}

// next returns when the goroutine should look in again, and stops watching
// where everything was answered.
func (s *silence) next(time.Time) time.Duration {
	if s.unanswered.Load() != 0 {
		return silenceTick
	}
	s.watching.Store(false)
	if s.unanswered.Load() != 0 && !s.watching.Swap(true) {
		return silenceTick // sent in between
	}
	return idleStep
}
