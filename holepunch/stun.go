package holepunch

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// A STUNClient asks STUN servers for our mapped address over a socket that others
// share (RFC 8489 section 6.2.1). Whoever reads the socket hands STUN messages to Inbound;
// Do may run many times at once. The zero STUNClient is ready.
type STUNClient struct {
	// RTO is the wait before the first retransmission; 0: 500 ms, as the RFC says. Set
	// it to what is known of the round trip for faster recovery.
	RTO time.Duration
	// Requests is how many are sent in all; 0: 7 (the RFC's Rc).
	Requests int

	mu      sync.Mutex // guards waiting
	waiting map[TransactionID]chan<- Binding
}

// A Binding is a response and what the client saw of it.
type Binding struct {
	BindingResponse
	From netip.AddrPort // the response's source
	RTT  time.Duration  // since the first request: too long where one was lost
}

const lastWait = 16 // RTOs after the last request: RFC 8489's Rm

// Do sends a Binding request to server by send, and again after RTO, 2 RTO, … until
// the response arrives. It fails with ErrNoAnswer, with a *STUNError, with ctx's error, or with send's
// where that refuses the first request.
func (c *STUNClient) Do(ctx context.Context, send func([]byte, netip.AddrPort) error, server netip.AddrPort) (Binding, error) {
	return c.DoChange(ctx, send, server, 0)
}

// DoChange is Do with a CHANGE-REQUEST (RFC 5780): the answer, if any, comes from
// another address. A server that cannot do it answers 420.
func (c *STUNClient) DoChange(ctx context.Context, send func([]byte, netip.AddrPort) error, server netip.AddrPort, change Change) (Binding, error) {
	var id TransactionID
	rand.Read(id[:]) // never fails, see crypto/rand
	answer := c.expect(id)
	defer c.forget(id)

	request := AppendBindingRequest(nil, id, change)
	began, wait := time.Now(), cmp.Or(max(c.RTO, 0), 500*time.Millisecond)
	total := cmp.Or(max(c.Requests, 0), 7)
	last := wait * lastWait
	for n := 1; n <= total; n++ {
		if err := send(request, server); err != nil && n == 1 {
			return Binding{}, fmt.Errorf("sending a STUN request to %v: %w", server, err)
		}
		if n == total {
			wait = last
		}
		b, ok, err := await(ctx, answer, wait)
		if ok {
			b.RTT = time.Since(began)
			return b, b.err(server)
		}
		if err != nil {
			return Binding{}, fmt.Errorf("waiting for STUN server %v: %w", server, err)
		}
		wait *= 2
	}
	return Binding{}, fmt.Errorf("%w: %v, %s in %s", ErrNoAnswer, server, plural(total, "request"), seconds(time.Since(began)))
}

// await waits for an answer. One that is there beats an ended context.
func await(ctx context.Context, answer <-chan Binding, wait time.Duration) (Binding, bool, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case b := <-answer:
		return b, true, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
	}
	select {
	case b := <-answer:
		return b, true, nil
	default:
		return Binding{}, false, err
	}
}

func (b *Binding) err(server netip.AddrPort) error {
	if b.Code == 0 {
		return nil
	}
	return &STUNError{Server: server, Code: b.Code, Reason: b.Reason}
}

func (c *STUNClient) expect(id TransactionID) <-chan Binding {
	answer := make(chan Binding, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[TransactionID]chan<- Binding)
	}
	c.waiting[id] = answer
	return answer
}

func (c *STUNClient) forget(id TransactionID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// Inbound takes a STUN message from the shared socket, and reports whether it answers one
// of our requests. It never blocks. The source is not compared with the server: with a
// Change it differs, and only who saw the request knows its 96-bit ID.
func (c *STUNClient) Inbound(b []byte, from netip.AddrPort) bool {
	r, err := ParseBindingResponse(b)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, ok := c.waiting[r.ID]
	if !ok {
		return false
	}
	delete(c.waiting, r.ID) // a second response is nobody's
	answer <- Binding{BindingResponse: r, From: unmap(from)}
	return true
}
