package peerconn

import (
	"slices"
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
	if next := s.next(); next != idleStep {
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
	s.heard(true)
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
		if next := s.next(); next != silenceTick {
			t.Fatalf("looks in after %v with something unanswered", next)
		}
		s.heard(true)
		if s.sent(now) {
			t.Fatal("woken though it watches")
		}
		s.heard(true)
		if next := s.next(); next != idleStep {
			t.Fatalf("looks in after %v with all answered", next)
		}
	}
}

// The peer may answer over another path because ours is dead in our direction
// alone, or because it prefers that one: we look, but ever more rarely.
func TestSilenceOfThePathInUse(t *testing.T) {
	var s silence
	start := time.Unix(1000, 0)
	s.sent(start)
	var looks []time.Duration
	for at := time.Duration(0); at < time.Minute; at += 10 * time.Millisecond {
		s.heard(false)
		s.sent(start.Add(at))
		if s.suspicious(start.Add(at), 0) {
			looks = append(looks, at)
			s.unfounded()
		}
	}
	gaps := []time.Duration{looks[0]}
	for i, at := range looks[1:] {
		gaps = append(gaps, at-looks[i])
	}
	want := []time.Duration{silenceFloor, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 16 * time.Second}
	if !slices.Equal(gaps, want) {
		t.Errorf("looked after %v, want %v", gaps, want)
	}
	s.moved()
	s.sent(start.Add(time.Hour))
	s.heard(false)
	if s.suspicious(start.Add(time.Hour+silenceFloor-1), 0) || !s.suspicious(start.Add(time.Hour+silenceFloor), 0) {
		t.Error("on another path the suspicion does not begin anew")
	}
	s.heard(true)
	if s.suspicious(start.Add(2*time.Hour), 0) {
		t.Error("suspicious though all was answered")
	}
}
