package main

import (
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// parseRate reads a number of bits per second with a unit: bit, kbit, mbit or gbit.
func parseRate(text string) (bitsPerSecond float64, err error) {
	number, factor := strings.ToLower(text), 1.0
	for _, unit := range []struct {
		name   string
		factor float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		if n, ok := strings.CutSuffix(number, unit.name); ok {
			number, factor = n, unit.factor
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n > 0) || n*factor < 1e4 {
		return 0, usagef("--max-rate %q: want a rate of 10kbit or more, as in 10mbit", text)
	}
	return n * factor, nil
}

// rateLimit is one token bucket for everything a relay carries, both directions together. What is
// beyond it is dropped, as a narrow link would: QUIC slows down by itself.
type rateLimit struct {
	bytesPerSecond, burst float64

	mu     sync.Mutex // guards what follows
	tokens float64
	last   time.Time
}

const burstTime = 100 * time.Millisecond

func newRateLimit(bitsPerSecond float64) *rateLimit {
	perSecond := bitsPerSecond / 8
	burst := max(perSecond*burstTime.Seconds(), 3000) // two packets at least
	return &rateLimit{bytesPerSecond: perSecond, burst: burst, tokens: burst}
}

// take reports whether n bytes may pass now.
func (r *rateLimit) take(now time.Time, n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() {
		r.tokens = min(r.burst, r.tokens+r.bytesPerSecond*now.Sub(r.last).Seconds())
	}
	r.last = now
	if r.tokens < float64(n) {
		return false
	}
	r.tokens -= float64(n)
	return true
}

// listenPacket opens a relayed socket under the limit.
func (r *rateLimit) listenPacket(network, address string) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		return nil, err
	}
	return &limitedConn{PacketConn: conn, limit: r}, nil
}

type limitedConn struct {
	net.PacketConn
	limit *rateLimit
}

func (c *limitedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || c.limit.take(time.Now(), n) {
			return n, from, err
		}
	}
}

func (c *limitedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.limit.take(time.Now(), len(b)) {
		return len(b), nil // lost on the way
	}
	return c.PacketConn.WriteTo(b, to)
}
