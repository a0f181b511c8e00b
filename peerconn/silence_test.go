package peerconn

import (
	"testing"
	"time"
)

func TestSilence(t *testing.T) {
	var s silence
	at := func(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }
	suspicious := func(ms int, rtt time.Duration, want bool) {
		t.Helper()
		if got := s.suspicious(at(ms), rtt); got != want {
			t.Errorf("at %d ms: suspicious %v, want %v", ms, got, want)
		}
	}
	suspicious(0, 0, false)
	if next := s.next(at(0)); next != idleStep {
		t.Errorf("looks in after %v with nothing sent", next)
	}
	if !s.sent(at(0)) {
		t.Error("the first datagram wakes nobody")
	}
	if s.sent(at(10)) {
		t.Error("the second one wakes again")
	}
	suspicious(59, 0, false)
	suspicious(60, 0, true)
	suspicious(200, 0, false) // raised already
	suspicious(559, 0, false)
	suspicious(560, 0, true) // once in 500 ms
	s.heard()
	suspicious(2000, 0, false)

	s.sent(at(3000))
	suspicious(3000+329, 200*time.Millisecond, false) // 1.5 round trips and a tick
	suspicious(3000+330, 200*time.Millisecond, true)
}

// The goroutine that watches stops when all is answered, and is woken again by
// the next datagram, whichever of the two comes first.
func TestSilenceWatching(t *testing.T) {
	var s silence
	now := time.Now()
	for range 3 {
		if !s.sent(now) {
			t.Fatal("nobody is woken to watch")
		}
		if next := s.next(now); next != silenceTick {
			t.Fatalf("looks in after %v with something unanswered", next)
		}
		s.heard()
		if s.sent(now) {
			t.Fatal("woken though it watches")
		}
		s.heard()
		if next := s.next(now); next != idleStep {
			t.Fatalf("looks in after %v with all answered", next)
		}
	}
}
