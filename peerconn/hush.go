package peerconn

import (
	"sync/atomic"
	"time"
)

// hush notices that a peer who was talking has stopped. It may have said all; its
// path to us, or the relay or node between us, may also be gone, and a side that only
// listens would learn it from a keepalive much later. So the path in use is checked
// once after each conversation.
type hush struct {
	count     atomic.Uint64 // datagrams of QUIC heard
	listening atomic.Bool   // the route's goroutine looks in by itself

	// What follows belongs to the route's goroutine.
	seen    uint64
	since   time.Time // when count was seen to change last
	tick    time.Time // when a tick began ...
	before  uint64    // ... and the count then
	talking bool      // more than keepalives came in some tick
}

const (
	hushTick  = time.Second
	hushAfter = 2 * time.Second
	hushTalk  = 3 // datagrams in a tick that are a conversation
)

// heard counts a datagram; true means that the goroutine must be woken.
func (h *hush) heard() bool {
	h.count.Add(1)
	return !h.listening.Load() && !h.listening.Swap(true)
}

// look reports whether a conversation has just ended, and when to look again.
func (h *hush) look(now time.Time) (ended bool, next time.Duration) {
	n := h.count.Load()
	if now.Sub(h.tick) >= hushTick {
		h.tick, h.before = now, h.seen
	}
	h.talking = h.talking || n-h.before >= hushTalk
	if n != h.seen {
		h.seen, h.since = n, now
		return false, hushTick
	}
	if !h.listening.Load() {
		return false, idleStep
	}
	if quiet := now.Sub(h.since); quiet < hushAfter {
		return false, hushAfter - quiet
	}
	ended, h.talking = h.talking, false
	h.listening.Store(false)
	if h.count.Load() != h.seen && !h.listening.Swap(true) { // came in between
		return false, hushTick
	}
	return ended, idleStep
}
