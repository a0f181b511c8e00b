package server

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rates bound the answers to requests that are not authenticated: 401, 438, 400 and Binding.
// Zero is the default, negative is off.
type Rates struct {
	PerPrefix int // answers a second to one IPv4 /24 or IPv6 /56; default 50, bursts of four times that
	Global    int // answers a second to all; default 5,000, bursts of twice that
}

// limiterBuckets bounds the limiter's memory whatever the number of sources: prefixes share
// buckets by a keyed hash, so nobody can aim at a chosen other's bucket.
const limiterBuckets = 1 << 13

// bucket is a token bucket that was full, or better filled, at time zero.
type bucket struct {
	tokens float64
	last   time.Duration // since the limiter's start
}

// take refills b at rate a second up to burst and takes one token if there is one.
func (b *bucket) take(now time.Duration, rate, burst float64) bool {
	b.tokens = min(burst, b.tokens+rate*(now-b.last).Seconds())
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
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
	return l.buckets[i].take(now, l.perPrefix, 4*l.perPrefix) && l.all.take(now, l.global, 2*l.global)
}
