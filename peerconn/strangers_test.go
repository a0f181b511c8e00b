package peerconn

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func numbered(i int) netip.Addr {
	var b [16]byte
	copy(b[:], "\x20\x01\x0d\xb8")
	binary.BigEndian.PutUint32(b[12:], uint32(i))
	return netip.AddrFrom16(b)
}

// allowed counts how many of n checks to a may leave at now.
func allowed(s *strangers, a netip.Addr, n int, now time.Time) (count int) {
	for range n {
		if s.allow(a, now) {
			count++
		}
	}
	return count
}

// An address that has not proved itself has one budget, over all calls.
func TestStrangersBudget(t *testing.T) {
	var s strangers
	now := time.Now()
	a, b := numbered(1), numbered(2)
	if got := allowed(&s, a, 1000, now); got != strangerBurst {
		t.Errorf("%d checks at once, want %d", got, strangerBurst)
	}
	if got := allowed(&s, b, 1, now); got != 1 {
		t.Error("another address has no budget of its own")
	}
	if got := allowed(&s, a, 1000, now.Add(time.Second)); got != strangerRate {
		t.Errorf("%d checks a second later, want %d", got, strangerRate)
	}
	if got := allowed(&s, a, 1000, now.Add(time.Hour)); got != strangerBurst {
		t.Errorf("%d checks an hour later, want %d", got, strangerBurst)
	}
}

// "One that has is free", for ten minutes after the last proof.
func TestStrangersProof(t *testing.T) {
	var s strangers
	now := time.Now()
	a := numbered(1)
	allowed(&s, a, 1000, now)
	s.proved(a, now)
	if got := allowed(&s, a, 10_000, now); got != 10_000 {
		t.Errorf("%d of 10000 checks to a peer that proved itself", got)
	}
	s.proved(a, now.Add(5*time.Minute))
	if got := allowed(&s, a, 1000, now.Add(14*time.Minute)); got != 1000 {
		t.Errorf("%d of 1000 checks nine minutes after the last proof", got)
	}
	if got := allowed(&s, a, 1000, now.Add(16*time.Minute)); got != strangerBurst {
		t.Errorf("%d of 1000 checks eleven minutes after the last proof, want %d", got, strangerBurst)
	}
}

// Whatever addresses offers name, the memory for them is bounded, and old ones
// make room.
func TestStrangersMemory(t *testing.T) {
	var s strangers
	now := time.Now()
	for i := range 2 * strangerMemory {
		s.allow(numbered(i), now)
	}
	if len(s.known) > strangerMemory {
		t.Errorf("%d addresses are remembered, want at most %d", len(s.known), strangerMemory)
	}
	if got := allowed(&s, numbered(5*strangerMemory), 1000, now); got != 0 {
		t.Errorf("%d checks to addresses beyond the memory, whose common budget is spent", got)
	}
	now = now.Add(time.Minute)
	s.proved(numbered(1), now)
	if !s.allow(numbered(4*strangerMemory), now) {
		t.Error("old addresses make no room")
	}
	if len(s.known) > 2 {
		t.Errorf("%d addresses are remembered, want 2", len(s.known))
	}
	if got := allowed(&s, numbered(1), 1000, now); got != 1000 {
		t.Error("the proof was forgotten with the old ones")
	}
}
