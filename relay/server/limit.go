package server

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rates bound what strangers and users can make the server do in a second. Zero is the default,
// negative is off.
type Rates struct {
	// PerPrefix and Global bound the requests of those who have no allocation (401, 438, 400,
	// Binding, and the Allocate itself): from one IPv4 /24 or IPv6 /56, default 50, with bursts of
	// four times that, and from all, default 5,000, with bursts of twice that. Beyond is silence.
	PerPrefix, Global int
	// Relay is how many bytes of payload a second are relayed, both directions of all allocations
	// together; beyond that packets are dropped. Default: no limit.
	Relay int64
}

// limiterBuckets bounds the limiter's memory whatever the number of sources: prefixes share
// buckets by a keyed hash, so nobody can aim at a chosen other's bucket.
const limiterBuckets = 1 << 13

// bucket is a token bucket that was full, or better filled, at time zero.
type bucket struct {
	tokens float64
	last   time.Duration // since the limiter's start
}

// take refills b at rate a second up to burst and takes n tokens if it has them.
func (b *bucket) take(now time.Duration, n, rate, burst float64) bool {
	b.tokens = min(burst, b.tokens+rate*(now-b.last).Seconds())
	b.last = now
	if b.tokens < n {
		return false
	}
	b.tokens -= n
	return true
}

// limiter decides which unauthenticated requests are answered. mu guards the buckets.
type limiter struct {
	perPrefix, global float64
	seed              maphash.Seed
	start             time.Time

	mu      sync.Mutex
	buckets []bucket
	all     bucket
}

func newLimiter(r Rates) *limiter {
	l := &limiter{
		perPrefix: float64(orDefault(r.PerPrefix, 50)),
		global:    float64(orDefault(r.Global, 5000)),
		seed:      maphash.MakeSeed(),
		start:     time.Now(),
		buckets:   make([]bucket, limiterBuckets),
	}
	for i := range l.buckets {
		l.buckets[i].tokens = 4 * l.perPrefix
	}
	l.all.tokens = 2 * l.global
	return l
}

// allow takes a token of from's prefix and a global one.
func (l *limiter) allow(from netip.Addr) bool {
	i := maphash.Comparable(l.seed, prefixOf(from)) % limiterBuckets
	now := time.Since(l.start)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buckets[i].take(now, 1, l.perPrefix, 4*l.perPrefix) && l.all.take(now, 1, l.global, 2*l.global)
}

// pacer bounds the bytes relayed. A nil pacer bounds nothing. mu guards bytes.
type pacer struct {
	rate, burst float64
	start       time.Time
	mu          sync.Mutex
	bytes       bucket
}

// minBurst lets a slow relay still pass a flight of packets at once, in bytes.
const minBurst = 64 << 10

func newPacer(rate int64) *pacer {
	if rate <= 0 {
		return nil
	}
	p := &pacer{rate: float64(rate), burst: max(minBurst, float64(rate)/4), start: time.Now()}
	p.bytes.tokens = p.burst
	return p
}

func (p *pacer) allow(n int) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes.take(time.Since(p.start), float64(n), p.rate, p.burst)
}
