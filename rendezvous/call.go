package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// Call is one conversation with a peer through the node. Send and Receive may
// be used at the same time.
type Call struct {
	session  *session
	stream   *quic.Stream
	peer     sallyport.PeerID
	offer    []byte
	incoming bool
	expires  time.Time
	left     atomic.Int64 // bytes of the budget
	writing  sync.Mutex   // orders the writes
	doubt    *time.Timer  // suspects the node where no answer comes; nil if incoming

	receiving sync.Mutex // guards what follows
	reader    *wire.Reader
	over      error // why the call ended, once Receive knows
	closed    atomic.Bool
}

func newCall(s *session, stream *quic.Stream, reader *wire.Reader, offer wire.Call) *Call {
	c := &Call{
		session: s,
		stream:  stream,
		peer:    offer.Peer,
		offer:   offer.Offer,
		expires: time.Now().Add(CallLifetime),
		reader:  reader,
	}
	c.left.Store(int64(CallBudget - len(offer.Offer)))
	stream.SetReadDeadline(c.expires)
	return c
}

// watch makes the session ask the node for a sign of life if nothing arrives
// in this call for d.
func (c *Call) watch(d time.Duration) {
	c.doubt = time.AfterFunc(d, func() {
		select {
		case c.session.suspicion <- struct{}{}:
		default:
		}
	})
}

// Peer is who is at the other end: as TLS proved it to the node.
func (c *Call) Peer() sallyport.PeerID { return c.peer }

// Offer is what the call began with.
func (c *Call) Offer() []byte { return c.offer }

// Remaining is how many bytes the call may still carry, both directions
// together, as far as this side knows.
func (c *Call) Remaining() int { return int(max(0, c.left.Load())) }

// Send sends a message of 1 to [MaxMessage] bytes; it does not block. It fails
// with ErrTooLarge or ErrBudget, after which the call goes on, or because the
// call is over: Receive says why.
func (c *Call) Send(msg []byte) error {
	if len(msg) == 0 || len(msg) > MaxMessage {
		return fmt.Errorf("sending %d bytes: %w", len(msg), ErrTooLarge)
	}
	if c.left.Add(-int64(len(msg))) < 0 {
		c.left.Add(int64(len(msg)))
		return ErrBudget
	}
	if err := c.write(wire.Message(msg).Append(nil)); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	return nil
}

var errOver = fmt.Errorf("call is over: %w", net.ErrClosed)

func (c *Call) write(b []byte) error {
	c.writing.Lock()
	err := c.stream.TryWriteAll(b)
	c.writing.Unlock()
	_, remote := errors.AsType[*quic.StreamError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, quic.ErrWouldBlock):
		return ErrBudget
	case remote, errors.Is(err, quic.ErrStreamClosed):
		return errOver
	}
	return c.session.failure(err)
}

// Receive waits for the next message. The error is io.EOF where the other side
// closed the call; ErrOffline, ErrRefused, ErrLimited, ErrBudget or ErrExpired
// where it ended otherwise; a *[NodeError] where the node is lost; net.ErrClosed
// after Close; and ctx's error if that ended first, after which Receive may be
// called again.
func (c *Call) Receive(ctx context.Context) ([]byte, error) {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	if c.over != nil {
		return nil, c.over
	}
	kind, payload, err := c.next(ctx)
	if err != nil && ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, context.Cause(ctx)
	}
	if c.doubt != nil {
		c.doubt.Stop()
	}
	msg, err := c.accept(kind, payload, err)
	c.over = err
	return msg, err
}

// next reads a frame; when ctx ends it returns os.ErrDeadlineExceeded.
func (c *Call) next(ctx context.Context) (wire.Type, []byte, error) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.stream.SetReadDeadline(time.Now())
		close(done)
	})
	kind, payload, err := c.reader.Next()
	if !stop() {
		<-done
		c.stream.SetReadDeadline(c.expires)
	}
	return kind, payload, err
}

// accept turns a frame, or the error of reading one, into Receive's result.
func (c *Call) accept(kind wire.Type, payload []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, c.readCause(err)
	}
	switch kind {
	case wire.TypeMessage:
		if msg, err := wire.ParseMessage(payload); err == nil {
			c.left.Add(-int64(len(msg)))
			return msg, nil
		}
	case wire.TypeEnd:
		if end, err := wire.ParseEnd(payload); err == nil {
			return nil, endCause(end)
		}
	}
	return nil, c.session.client.nodeError(errProtocol)
}

func (c *Call) readCause(err error) error {
	_, cancelled := errors.AsType[*quic.StreamError](err)
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case err == io.EOF, cancelled:
		return io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrExpired
	}
	return c.session.failure(err)
}

// Refuse ends an incoming call; the caller gets a *[RefusedError] with the
// reason, which is cut to [MaxReason] bytes.
func (c *Call) Refuse(reason string) error {
	if !c.incoming {
		return errors.New("refusing a call of one's own")
	}
	err := c.write(wire.End{Code: wire.EndRefused, Reason: reason}.Append(nil))
	c.Close()
	return err
}

// Close ends the call. The other side gets what was sent before, then io.EOF.
// It does not wait, and may be called more than once.
func (c *Call) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if c.doubt != nil {
		c.doubt.Stop()
	}
	c.stream.CancelRead(wire.CodeClosed)
	return c.stream.Close()
}
