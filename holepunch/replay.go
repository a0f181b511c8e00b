package holepunch

import (
	"fmt"

	"github.com/sallyport-net/sallyport"
)

// windowSize is how far behind the newest check a late one is still told from a
// replay. At 50 checks a round, 20 ms apart, it spans 0.8 s: more than two paths differ in delay.
const windowSize = 2048

// replayWindow is the sliding window of RFC 6479: a ring of bits, one per counter.
type replayWindow struct {
	top  uint64 // the highest counter accepted; 0: none yet
	bits [windowSize / 64]uint64
}

// accept reports whether n is new, and remembers it. Zero is never new.
func (w *replayWindow) accept(n uint64) bool {
	switch {
	case n == 0:
		return false
	case n > w.top:
		w.slide(n)
	case w.top-n >= windowSize:
		return false
	}
	word, bit := n/64%uint64(len(w.bits)), uint64(1)<<(n%64)
	if w.bits[word]&bit != 0 {
		return false
	}
	w.bits[word] |= bit
	return true
}

// slide moves the window up to n and forgets what leaves it. Clearing goes by
// counters, not words, because the window's lower edge lies inside a word.
func (w *replayWindow) slide(n uint64) {
	if n-w.top >= windowSize {
		clear(w.bits[:])
	} else {
		for c := w.top; c != n; { // c <= n would never end at the last counter there is
			c++
			w.bits[c/64%uint64(len(w.bits))] &^= 1 << (c % 64)
		}
	}
	w.top = n
}

// A ReplayCache remembers the nonces of offers that were accepted, so that a node
// cannot hand a recorded one to the callee again. It is bounded: the oldest is
// forgotten first, and a restart forgets all. What a replay can do then is bounded
// too: checks to addresses that the caller itself once offered, which nobody answers. It
// is not safe for concurrent use.
type ReplayCache struct {
	seen map[replayKey]struct{}
	ring []replayKey
	next int
}

// replayKey: one caller's nonces say nothing about another's.
type replayKey struct {
	caller sallyport.PeerID
	nonce  Nonce
}

// NewReplayCache remembers the last size offers; zero means 4,096 (about 500 KB).
func NewReplayCache(size int) *ReplayCache {
	if size <= 0 {
		size = 4096
	}
	return &ReplayCache{seen: make(map[replayKey]struct{}), ring: make([]replayKey, 0, size)}
}

// Accept returns nil for an offer not seen before, and remembers it; else ErrReplay.
// Ask it after OpenOffer, so that only authentic offers push others out.
func (c *ReplayCache) Accept(o *Offer) error {
	key := replayKey{o.Caller, o.Nonce}
	if _, ok := c.seen[key]; ok {
		return fmt.Errorf("offer from %s: %w", o.Caller.Short(), ErrReplay)
	}
	c.seen[key] = struct{}{}
	if len(c.ring) < cap(c.ring) {
		c.ring = append(c.ring, key)
		return nil
	}
	delete(c.seen, c.ring[c.next])
	c.ring[c.next] = key
	c.next = (c.next + 1) % len(c.ring)
	return nil
}
