package rendezvous

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// Client keeps this peer registered at one node. It is safe for concurrent
// use.
type Client struct {
	cfg      Config
	log      *slog.Logger
	instance [8]byte
	socket   *ownSocket    // where Config.DialContext is nil
	handlers chan struct{} // one token for each OnCall that runs

	mu      sync.Mutex    // guards what follows
	changed chan struct{} // closed, and made anew, when what follows changes
	current *session      // nil while there is none
	fault   error         // why there is none
	running bool
	closed  bool
	stop    context.CancelFunc
	stopped chan struct{} // closed when Run has returned
}

const maxHandlers = 64

// New checks cfg and returns a client that does nothing until Run.
func New(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	c := &Client{
		cfg:      cfg,
		log:      cfg.Logger,
		handlers: make(chan struct{}, maxHandlers),
		changed:  make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.DialContext == nil {
		c.socket = &ownSocket{}
		c.cfg.DialContext = c.socket.dial
	}
	rand.Read(c.instance[:]) // never fails, see crypto/rand
	return c, nil
}

// Run keeps a session with the node until ctx ends or Close is called, and
// returns the reason: ctx's error or net.ErrClosed. It is called once.
func (c *Client) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.start(cancel); err != nil {
		return err
	}
	defer c.finish()
	var pause backoff
	for first := true; ; {
		began := time.Now()
		registered, err := c.serve(ctx, first)
		first = first && !registered
		if ctx.Err() != nil {
			return c.ended(ctx)
		}
		c.update(func() { c.current, c.fault = nil, err })
		wait := pause.next(err, registered, time.Since(began))
		c.log.Warn("no session with the node", "node", c.cfg.Node.HostPort(), "err", err, "retry", wait)
		if !sleep(ctx, wait) {
			return c.ended(ctx)
		}
	}
}

func (c *Client) start(cancel context.CancelFunc) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.running:
		return errors.New("rendezvous: Run is called twice")
	}
	c.running, c.stop, c.stopped = true, cancel, make(chan struct{})
	return nil
}

func (c *Client) finish() {
	c.update(func() { c.current, c.closed = nil, true })
	if c.socket != nil {
		c.socket.close()
	}
	close(c.stopped)
}

func (c *Client) ended(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return ctx.Err()
}

// Close ends Run and all calls, and waits until Run has returned.
func (c *Client) Close() error {
	c.update(func() { c.closed = true })
	c.mu.Lock()
	stop, stopped := c.stop, c.stopped
	c.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	return nil
}

// update changes the guarded state and wakes who waits for it.
func (c *Client) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Ready waits until this peer is registered and returns what the node said. It
// fails at once where waiting is in vain because the node proved another key
// than its URL says, and otherwise when ctx ends: with a *[NodeError] that says
// what went wrong last.
func (c *Client) Ready(ctx context.Context) (Registration, error) {
	var reg *Registration
	_, err := c.wait(ctx, func(s *session) bool {
		reg = s.registration.Load()
		return reg != nil
	})
	if err != nil {
		return Registration{}, fmt.Errorf("registering: %w", err)
	}
	return *reg, nil
}

// wait returns the current session once ready accepts it.
func (c *Client) wait(ctx context.Context, ready func(*session) bool) (*session, error) {
	for {
		c.mu.Lock()
		s, fault, closed, changed := c.current, c.fault, c.closed, c.changed
		c.mu.Unlock()
		switch {
		case closed:
			return nil, net.ErrClosed
		case s != nil && ready(s):
			return s, nil
		case s == nil && errors.Is(fault, sallyport.ErrWrongPeer):
			return nil, fault
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if fault != nil {
				return nil, fmt.Errorf("%w: %w", context.Cause(ctx), fault)
			}
			return nil, context.Cause(ctx)
		}
	}
}

// open opens a stream on the current session, or on the next one where the
// current one turns out to be lost.
func (c *Client) open(ctx context.Context, b []byte) (*session, *quic.Stream, error) {
	var lost *session
	for {
		s, err := c.wait(ctx, func(s *session) bool { return s != lost })
		if err != nil {
			return nil, nil, err
		}
		stream, err := s.open(b)
		if err == nil || errors.Is(err, ErrLimited) {
			return s, stream, err
		}
		lost = s
	}
}

// Call opens a call to callee with an offer of 1 to [MaxMessage] bytes and
// returns without waiting for an answer; [Call.Receive] tells how it goes. Where
// there is no session with the node, it waits for one until ctx ends.
func (c *Client) Call(ctx context.Context, callee sallyport.PeerID, offer []byte) (*Call, error) {
	if len(offer) == 0 || len(offer) > MaxMessage {
		return nil, fmt.Errorf("calling with an offer of %d bytes: %w", len(offer), ErrTooLarge)
	}
	s, stream, err := c.open(ctx, wire.Call{Peer: callee, Offer: offer}.Append(nil))
	if err != nil {
		return nil, fmt.Errorf("calling: %w", err)
	}
	call := newCall(s, stream, wire.NewReader(stream), wire.Call{Peer: callee, Offer: offer})
	call.watch(s.patience())
	return call, nil
}

func (c *Client) nodeError(err error) error {
	return &NodeError{Node: c.cfg.Node, Err: nodeCause(err)}
}
