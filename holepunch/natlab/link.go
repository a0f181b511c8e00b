package natlab

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// LinkConfig describes the link between a host or router and the network it is attached to, the
// same in both directions. A packet between two hosts of one network crosses two links. The zero
// value has no delay and loses nothing.
type LinkConfig struct {
	// Latency is one-way; Jitter adds up to that much more, evenly spread. Packets are not
	// reordered by it.
	Latency, Jitter time.Duration
	// Loss is the probability, 0 to 1, that a packet is lost.
	Loss float64
	// MTU is the largest IP packet in bytes; zero: 1500. Larger ones are dropped, never fragmented.
	MTU int
	// Rate in bits per second of IP packets; zero: no limit.
	Rate int64
	// Queue is the most delay that a limited Rate may cause before packets are dropped; zero: 100 ms.
	Queue time.Duration
}

const (
	defaultMTU   = 1500
	defaultQueue = 100 * time.Millisecond
)

// Link attaches a host or router to a network. Its methods may be called at any time and hold for
// packets that enter the link from then on. Safe for concurrent use.
type Link struct {
	in   *Internet
	seg  *segment
	node node
	name string
	cfg  LinkConfig
	cut  bool
	dirs [2]lane
}

// lane is the state of one direction.
type lane struct {
	rng  *rand.Rand
	busy time.Duration // until when the rate limiter transmits
	last time.Duration // latest arrival so far: packets stay in order
}

// node is a host or a router, as seen from its links.
type node interface {
	receive(now time.Duration, p Packet)
}

func newLink(seg *segment, n node, name string, c LinkConfig) *Link {
	if c == (LinkConfig{}) && seg.gateway == nil {
		c = seg.in.cfg.Link
	}
	seg.in.links++
	l := &Link{in: seg.in, seg: seg, node: n, name: name, cfg: c.withDefaults()}
	for d := range l.dirs {
		l.dirs[d].rng = seg.in.rng(fmt.Sprintf("link %s %d %d", name, seg.in.links, d))
	}
	return l
}

func (c LinkConfig) withDefaults() LinkConfig {
	c.MTU = orDefault(c.MTU, defaultMTU)
	c.Queue = orDefault(c.Queue, defaultQueue)
	return c
}

// Config returns the link's configuration, defaults filled in.
func (l *Link) Config() LinkConfig {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	return l.cfg
}

// Set replaces the link's configuration.
func (l *Link) Set(c LinkConfig) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.cfg = c.withDefaults()
}

// Cut makes the link drop everything, silently as a cable cut some way off does, until Restore.
func (l *Link) Cut() { l.setCut(true) }

// Restore undoes Cut.
func (l *Link) Restore() { l.setCut(false) }

func (l *Link) setCut(cut bool) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.cut = cut
}

// send puts p on the link. Caller holds in.mu.
func (l *Link) send(now time.Duration, d direction, p Packet) {
	at, err := l.admit(now, &l.dirs[d], p.size())
	if err != nil {
		l.in.drop(now, l.name, p, err)
		return
	}
	l.in.schedule(at, l, d, p)
}

// admit decides when a packet arrives at the other end, or why it does not.
func (l *Link) admit(now time.Duration, n *lane, size int) (time.Duration, error) {
	switch {
	case l.cut:
		return 0, ErrCut
	case size > l.cfg.MTU:
		return 0, ErrTooBig
	case l.cfg.Loss > 0 && n.rng.Float64() < l.cfg.Loss:
		return 0, ErrLost
	}
	at := now
	if l.cfg.Rate > 0 {
		n.busy = max(n.busy, now)
		if n.busy-now > l.cfg.Queue {
			return 0, ErrQueueFull
		}
		n.busy += time.Duration(int64(size) * 8 * int64(time.Second) / l.cfg.Rate)
		at = n.busy
	}
	at += l.cfg.Latency
	if l.cfg.Jitter > 0 {
		at += time.Duration(n.rng.Int64N(int64(l.cfg.Jitter) + 1))
	}
	n.last = max(n.last, at)
	return n.last, nil
}

// arrive hands a packet over at the end of the link, unless it was cut in the meantime.
func (l *Link) arrive(now time.Duration, d direction, p Packet) {
	switch {
	case l.cut:
		l.in.drop(now, l.name, p, ErrCut)
	case d == up:
		l.seg.forward(now, l.name, p, false)
	default:
		l.node.receive(now, p)
	}
}
