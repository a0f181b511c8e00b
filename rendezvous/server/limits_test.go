package server

import (
	"net/netip"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	now := time.Now()
	b := newBuckets(Rate{PerSecond: 10, Burst: 3}, 64)
	take := func(key uint64, at time.Duration) (n int) {
		for b.allow(key, now.Add(at), 1) {
			n++
		}
		return n
	}
	for _, step := range []struct {
		key  uint64
		at   time.Duration
		want int
		why  string
	}{
		{1, 0, 3, "a full bucket"},
		{1, 50 * time.Millisecond, 0, "half a token is none"},
		{2, 50 * time.Millisecond, 3, "another bucket"},
		{1, 201 * time.Millisecond, 2, "two tokens came back"},
		{1, time.Hour, 3, "never more than the burst"},
		{1, time.Minute, 0, "a time before gives nothing"},
	} {
		if got := take(step.key, step.at); got != step.want {
			t.Errorf("%s: %d, want %d", step.why, got, step.want)
		}
	}
	off := newBuckets(Rate{PerSecond: -1}, 1)
	for range 1000 {
		if !off.allow(0, now, 1) {
			t.Fatal("a negative rate limits")
		}
	}
}

// A node that has run for a year still counts tenths of seconds.
func TestBucketsAfterAYear(t *testing.T) {
	now := time.Now()
	b := newBuckets(Rate{PerSecond: 10, Burst: 1}, 1)
	b.allow(0, now, 1)
	year := now.Add(365 * 24 * time.Hour)
	for i := range 20 {
		if at := year.Add(time.Duration(i) * 200 * time.Millisecond); !b.allow(0, at, 1) {
			t.Errorf("token %d is missing", i)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, tt := range []struct{ addr, prefix, wide string }{
		{"192.0.2.77:1", "192.0.2.77/32", "192.0.2.0/24"},
		{"[2001:db8:1:2ff::1]:1", "2001:db8:1:200::/56", "2001:db8:1:200::/56"},
	} {
		a := netip.MustParseAddrPort(tt.addr)
		if prefix(a).String() != tt.prefix || wide(a).String() != tt.wide {
			t.Errorf("%s: %v and %v", tt.addr, prefix(a), wide(a))
		}
	}
}
