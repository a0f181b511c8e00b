package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/peerconn"
)

// A bulk is a long transfer over one stream: pseudo-random bytes that both ends
// make for themselves, so that the receiver compares every byte in its place.
type bulk struct {
	name string
	pace time.Duration // from chunk to chunk; 0: as fast as it goes
	stop chan struct{} // closed: the sender finishes
	done chan error    // the sender's and the receiver's ends

	mu       sync.Mutex // guards what follows
	arrivals []arrival
	sent     int64
	sums     [2]hash.Hash
}

// arrival is one read of the receiver.
type arrival struct {
	at    time.Time
	total int64
}

const bulkChunk = 16 << 10

// pour starts a transfer from one end of a link to the other, as fast as it goes.
func pour(t *testing.T, name string, seed uint64, from, to *peerconn.Link) *bulk {
	t.Helper()
	return pourAt(t, 0, name, seed, from, to)
}

// pourAt is pour with that much time from one chunk to the next.
func pourAt(t *testing.T, pace time.Duration, name string, seed uint64, from, to *peerconn.Link) *bulk {
	t.Helper()
	b := &bulk{name: name, pace: pace, stop: make(chan struct{}), done: make(chan error, 2), sums: [2]hash.Hash{sha256.New(), sha256.New()}}
	accepted := make(chan struct{})
	go func() { // ends with the stream
		s, err := to.AcceptStream(t.Context())
		close(accepted)
		if err == nil {
			err = b.receive(s, source(seed))
		}
		b.done <- err
	}()
	s, err := from.OpenStream(t.Context())
	check(t, err)
	go func() { b.done <- b.send(s, source(seed)) }() // ends with stop
	<-accepted
	return b
}

func source(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 's'})
}

func (b *bulk) send(s *peerconn.Stream, from io.Reader) error {
	buf := make([]byte, bulkChunk)
	for {
		select {
		case <-b.stop:
			return s.Close()
		case <-time.After(b.pace):
		}
		from.Read(buf)
		if _, err := s.Write(buf); err != nil {
			return fmt.Errorf("sending %s: %w", b.name, err)
		}
		b.mu.Lock()
		b.sent += int64(len(buf))
		b.sums[0].Write(buf)
		b.mu.Unlock()
	}
}

func (b *bulk) receive(s *peerconn.Stream, want io.Reader) error {
	got, expect, total := make([]byte, bulkChunk), make([]byte, bulkChunk), int64(0)
	for {
		n, err := s.Read(got)
		want.Read(expect[:n])
		if !bytes.Equal(got[:n], expect[:n]) {
			return fmt.Errorf("receiving %s: wrong bytes within %d..%d", b.name, total, total+int64(n))
		}
		total += int64(n)
		b.mu.Lock()
		b.sums[1].Write(got[:n])
		b.arrivals = append(b.arrivals, arrival{time.Now(), total})
		b.mu.Unlock()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving %s after %d bytes: %w", b.name, total, err)
		}
	}
}

// finish stops the sender, waits for the receiver and compares the two ends.
func (b *bulk) finish(t *testing.T) {
	t.Helper()
	close(b.stop)
	for range 2 {
		check(t, <-b.done)
	}
	last := b.arrivals[len(b.arrivals)-1].total
	if last != b.sent || !bytes.Equal(b.sums[0].Sum(nil), b.sums[1].Sum(nil)) {
		t.Errorf("%s: %d bytes sent, %d received, or their hashes differ", b.name, b.sent, last)
	}
}

// gap returns the longest time without a byte between two moments.
func (b *bulk) gap(from, to time.Time) (longest time.Duration, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := from
	for _, a := range append(b.arrivals, arrival{at: to}) {
		switch {
		case a.at.Before(from):
		case a.at.After(to):
		default:
			if d := a.at.Sub(last); d > longest {
				longest, at = d, last
			}
			last = a.at
		}
	}
	return longest, at
}

// total returns the bytes that arrived until now.
func (b *bulk) total() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.arrivals) == 0 {
		return 0
	}
	return b.arrivals[len(b.arrivals)-1].total
}

// rate returns the goodput between two moments, in Mbit/s.
func (b *bulk) rate(from, to time.Time) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var first, last int64
	for _, a := range b.arrivals {
		if a.at.Before(from) {
			first = a.total
		}
		if !a.at.After(to) {
			last = a.total
		}
	}
	return float64(last-first) * 8 / 1e6 / to.Sub(from).Seconds()
}

// linked dials and returns both ends of the link.
func linked(t *testing.T, from, to *peerconn.Host) (near, far *peerconn.Link) {
	t.Helper()
	near, err := from.Dial(t.Context(), to.Ticket())
	check(t, err)
	far, err = to.Accept(t.Context())
	check(t, err)
	return near, far
}

// until waits for a path of a kind on both ends.
func until(t *testing.T, kind peerconn.PathKind, limit time.Duration, links ...*peerconn.Link) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for _, l := range links {
		for l.Path().Kind != kind {
			select {
			case <-l.Events():
			case <-l.Context().Done():
				t.Fatalf("the link ended while waiting for %v: %v", kind, context.Cause(l.Context()))
			case <-ctx.Done():
				t.Fatalf("the path is %v after %v, want %v\n%s", l.Path(), limit, kind, tried(l))
			}
		}
	}
	return time.Since(start)
}

func isNoPath(err error) bool { return errors.Is(err, peerconn.ErrNoPath) }

// chatter asks over one stream of the link ten times a second until stopped.
type chatter struct {
	stop chan struct{}
	done chan error
	asks int
	slow time.Duration // the longest answer
}

func chat(t *testing.T, l *peerconn.Link) *chatter {
	t.Helper()
	c := &chatter{stop: make(chan struct{}), done: make(chan error, 1)}
	s, err := l.OpenStream(t.Context())
	check(t, err)
	go func() { // ends with stop
		defer s.Close()
		for {
			select {
			case <-c.stop:
				c.done <- nil
				return
			case <-time.After(100 * time.Millisecond):
			}
			start := time.Now()
			if err := askOn(s); err != nil {
				c.done <- err
				return
			}
			c.asks++
			c.slow = max(c.slow, time.Since(start))
		}
	}()
	return c
}

func (c *chatter) finish(t *testing.T) {
	t.Helper()
	if err := c.end(); err != nil {
		t.Errorf("the conversation broke after %d answers: %v", c.asks, err)
	}
}

// end stops and returns why the conversation broke before, if it did.
func (c *chatter) end() error {
	close(c.stop)
	return <-c.done
}
