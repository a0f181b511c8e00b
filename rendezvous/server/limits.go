package server

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rate is a token bucket: Burst at once, PerSecond on the average. A negative
// PerSecond is no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limits bounds what peers may ask of a node. Zero is the default given here,
// negative is no limit.
type Limits struct {
	Connections          int // 20,000 in all, handshakes included
	ConnectionsPerPrefix int // 512 from one IPv4 address, or one IPv6 /56

	CallsAtOnce int // 32 that one peer may have placed and that are not over
	Inbox       int // 32 calls to one callee without an answer yet; beyond, the oldest ends

	CallsPerSender Rate // 20/s, burst 100
	CallsPerPair   Rate // 5/s, burst 50
	CallsPerPrefix Rate // 200/s, burst 1,000
	CallsPerCallee Rate // 100/s, burst 200
	Messages       Rate // 400/s, burst 400: of one peer, in all its calls
	Requests       Rate // 10/s, burst 50: presence and relays, of one peer
	Strikes        Rate // 20/s, burst 400: what a peer tries beyond these; then it is disconnected

	Handshakes       Rate // 200/s, burst 400: above, addresses are verified first
	HandshakesPrefix Rate // 20/s, burst 50: the same from one network
	STUN             Rate // 20,000/s, burst 20,000
	STUNPrefix       Rate // 200/s, burst 400: from one /24 or /56
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func (r Rate) or(perSecond float64, burst int) Rate {
	if r == (Rate{}) {
		return Rate{perSecond, burst}
	}
	return r
}

// limiters are the buckets that outlive a session.
type limiters struct {
	seed maphash.Seed

	connections, perPrefix, callsAtOnce, inbox int

	sender, pair, prefix, callee, messages, requests, strikes *buckets
	handshakes, unverified, stun, stunPrefix                  *buckets
}

func newLimiters(l Limits) *limiters {
	return &limiters{
		seed:        maphash.MakeSeed(),
		connections: orDefault(l.Connections, 20_000),
		perPrefix:   orDefault(l.ConnectionsPerPrefix, 512),
		callsAtOnce: orDefault(l.CallsAtOnce, 32),
		inbox:       orDefault(l.Inbox, 32),
		sender:      newBuckets(l.CallsPerSender.or(20, 100), 1<<15),
		pair:        newBuckets(l.CallsPerPair.or(5, 50), 1<<15),
		prefix:      newBuckets(l.CallsPerPrefix.or(200, 1000), 1<<13),
		callee:      newBuckets(l.CallsPerCallee.or(100, 200), 1<<15),
		messages:    newBuckets(l.Messages.or(400, 400), 1<<15),
		requests:    newBuckets(l.Requests.or(10, 50), 1<<15),
		strikes:     newBuckets(l.Strikes.or(20, 400), 1<<15),
		handshakes:  newBuckets(l.Handshakes.or(200, 400), 1),
		unverified:  newBuckets(l.HandshakesPrefix.or(20, 50), 1<<13),
		stun:        newBuckets(l.STUN.or(20_000, 20_000), 1),
		stunPrefix:  newBuckets(l.STUNPrefix.or(200, 400), 1<<13),
	}
}

// key turns what a bucket is for into its number. The seed is secret and new
// in each process, so that nobody can aim at another's bucket.
func (l *limiters) key(v any) uint64 { return maphash.Comparable(l.seed, v) }

// buckets is a fixed number of token buckets. Which one a key uses is chosen by
// its hash: memory is bounded whatever comes, and two keys that share a bucket
// share a limit.
type buckets struct {
	rate  Rate
	mu    sync.Mutex // guards slots
	start time.Time
	slots []slot
}

type slot struct {
	used float64       // tokens taken and not given back yet
	at   time.Duration // since start
}

func newBuckets(rate Rate, n int) *buckets {
	return &buckets{rate: rate, slots: make([]slot, n)}
}

// allow takes cost tokens if they are there.
func (b *buckets) allow(key uint64, now time.Time, cost float64) bool {
	if b.rate.PerSecond < 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.start.IsZero() {
		b.start = now
	}
	s := &b.slots[key%uint64(len(b.slots))]
	at := now.Sub(b.start)
	if gap := at - s.at; gap > 0 {
		s.used = max(0, s.used-gap.Seconds()*b.rate.PerSecond)
		s.at = at
	}
	if s.used+cost > float64(b.rate.Burst) {
		return false
	}
	s.used += cost
	return true
}

// prefix is the network that an address is counted under: all of IPv4's bits,
// as one address may be a carrier's but a neighbour is somebody else; IPv6's
// first 56, which one customer has at will.
func prefix(a netip.AddrPort) netip.Prefix {
	bits := 56
	if a.Addr().Is4() {
		bits = 32
	}
	p, _ := a.Addr().Prefix(bits)
	return p
}

// wide is the network that unauthenticated requests are counted under.
func wide(a netip.AddrPort) netip.Prefix {
	bits := 56
	if a.Addr().Is4() {
		bits = 24
	}
	p, _ := a.Addr().Prefix(bits)
	return p
}
