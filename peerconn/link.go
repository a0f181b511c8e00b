package peerconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
)

// Stream is one ordered, reliable, flow-controlled byte stream of a link, in
// both directions (RFC 9000 section 2).
type Stream = quic.Stream

// Application error codes of a link's QUIC connection.
const (
	codeClosed  quic.ApplicationErrorCode = 0 // by the application
	codeNoPath  quic.ApplicationErrorCode = 1 // no real path was found
	codeNoRoute quic.ApplicationErrorCode = 2 // the route of an incoming connection is gone
)

const maxEvents = 32 // kept for a slow reader, then the oldest are dropped

// Link is a live, mutually authenticated QUIC connection to a peer. The path
// under it changes as better ones are found or the one in use dies; streams and
// datagrams do not notice. It is safe for concurrent use.
type Link struct {
	h       *Host
	r       *route
	conn    *quic.Conn
	elapsed time.Duration
	events  chan Event
	ctx     context.Context // ends with the link: it is the link's lifetime, which callers wait for
	end     context.CancelCauseFunc

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed at the next event
}

func newLink(h *Host, r *route, conn *quic.Conn, elapsed time.Duration) *Link {
	ctx, end := context.WithCancelCause(context.Background())
	l := &Link{
		h:       h,
		r:       r,
		conn:    conn,
		elapsed: elapsed,
		events:  make(chan Event, maxEvents),
		ctx:     ctx,
		end:     end,
		changed: make(chan struct{}),
	}
	r.attach(l)
	context.AfterFunc(conn.Context(), func() { end(linkEnd(context.Cause(conn.Context()))) })
	h.tasks.Go(l.watch)
	return l
}

// attach makes l the link of the route.
func (r *route) attach(l *Link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = l
	r.onEvent = l.event
	close(r.linked)
}

// claim makes conn the one connection of an incoming route; false if it has one,
// or is a route of our own call, whose connection we make.
func (r *route) claim(conn *quic.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calling || r.conn != nil {
		return false
	}
	r.conn = conn
	return true
}

// closeLink ends the link of the route, or the handshake that would make one;
// false where there is neither.
func (r *route) closeLink() bool {
	r.mu.Lock()
	l, conn := r.link, r.conn
	r.mu.Unlock()
	switch {
	case l != nil:
		l.Close()
	case conn != nil:
		conn.CloseWithError(codeClosed, "")
	}
	return l != nil || conn != nil
}

// orphanPatience is how long a link may look for a path after its call has
// ended: the peer is gone, or the node.
const orphanPatience = 3 * time.Second

// watch ends a link that never gets a real path.
func (l *Link) watch() {
	timer := time.NewTimer(l.h.cfg.dialTimeout())
	defer timer.Stop()
	over := l.r.callOver
	for {
		select {
		case <-over:
			over = nil
			timer.Reset(min(orphanPatience, l.h.cfg.dialTimeout()))
			continue
		case <-l.r.first:
		case <-l.ctx.Done():
		case <-timer.C:
			l.noPath()
		}
		return
	}
}

func (l *Link) noPath() {
	l.end(&DialError{Peer: l.Peer(), Err: ErrNoPath, Attempts: l.attempts()})
	l.conn.CloseWithError(codeNoPath, "no path to the peer was found")
}

// attempts says what was tried to find a real path.
func (l *Link) attempts() []Attempt {
	tried := attempts(l.r.reports())
	if use := l.r.relays(); use != nil {
		tried = append(tried, use.attempts()...)
	}
	return tried
}

func (l *Link) event(e Event) {
	for {
		select {
		case l.events <- e:
		default:
			select {
			case <-l.events: // the oldest
			default:
			}
			continue
		}
		break
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Peer returns who is at the other end, as TLS proved.
func (l *Link) Peer() sallyport.PeerID { return l.r.peer }

// Elapsed returns the time from the call to a link that could carry data.
func (l *Link) Elapsed() time.Duration { return l.elapsed }

// Path returns the path that outgoing data takes now. Each side chooses for its
// own direction.
func (l *Link) Path() Path { return l.r.path() }

// Paths returns every path that was tried, with what is known of it.
func (l *Link) Paths() []PathReport { return l.r.reports() }

// Events returns the changes of path as they happen. A reader that is slow
// misses the oldest; there is one channel for all readers. It is not closed: see
// Context.
func (l *Link) Events() <-chan Event { return l.events }

// WaitPath waits until a real path, direct or relayed, carries the data.
func (l *Link) WaitPath(ctx context.Context) error {
	return l.wait(ctx, func(p Path) bool { return p.Kind > PathNode })
}

// WaitDirect waits until data flows without a relay, or returns ctx's error or
// why the link ended. The search goes on for as long as the link lives.
func (l *Link) WaitDirect(ctx context.Context) error {
	return l.wait(ctx, func(p Path) bool { return p.Kind.Direct() })
}

func (l *Link) wait(ctx context.Context, enough func(Path) bool) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if enough(l.Path()) {
			return nil
		}
		select {
		case <-changed:
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// OpenStream opens a stream; it waits where the peer allows no more at a time.
// The peer learns of the stream with the first byte written.
func (l *Link) OpenStream(ctx context.Context) (*Stream, error) {
	s, err := l.conn.OpenStreamSync(ctx)
	return s, l.explain(err)
}

// AcceptStream returns the next stream that the peer opened.
func (l *Link) AcceptStream(ctx context.Context) (*Stream, error) {
	s, err := l.conn.AcceptStream(ctx)
	return s, l.explain(err)
}

// SendDatagram sends up to about 1,150 bytes unreliably (RFC 9221).
func (l *Link) SendDatagram(b []byte) error { return l.explain(l.conn.SendDatagram(b)) }

// ReceiveDatagram returns the next datagram.
func (l *Link) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	b, err := l.conn.ReceiveDatagram(ctx)
	return b, l.explain(err)
}

// explain gives an operation on a link that has ended the reason for its end. QUIC
// fails operations with an error that is net.ErrClosed shortly before its own
// context ends.
func (l *Link) explain(err error) error {
	if err != nil && (errors.Is(err, net.ErrClosed) || l.conn.Context().Err() != nil) {
		<-l.ctx.Done()
		return context.Cause(l.ctx)
	}
	return err
}

// Context ends when the link does; context.Cause says why: net.ErrClosed after
// Close, a *ClosedError where the peer closed, ErrNoPath or a *DialError where
// the paths were lost or never found.
func (l *Link) Context() context.Context { return l.ctx }

// Close ends the link. What was written to streams and not yet delivered may be
// lost: finish the streams first.
func (l *Link) Close() error { return l.CloseWithReason("") }

// CloseWithReason is Close with a word to the peer, of at most 200 bytes.
func (l *Link) CloseWithReason(reason string) error {
	l.end(net.ErrClosed)
	return l.conn.CloseWithError(codeClosed, reason[:min(len(reason), 200)])
}

// ClosedError says that the peer ended the link.
type ClosedError struct {
	Reason string // the peer's words, may be empty; not to be trusted
}

func (e *ClosedError) Error() string {
	if e.Reason == "" {
		return "the peer closed the link"
	}
	return "the peer closed the link: " + strconv.Quote(e.Reason)
}

// Is makes a ClosedError a net.ErrClosed for errors.Is.
func (e *ClosedError) Is(target error) bool { return target == net.ErrClosed }

// linkEnd translates why a QUIC connection ended.
func linkEnd(err error) error {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	var transport *quic.TransportError
	switch {
	case errors.As(err, &transport) && transport.Remote && transport.ErrorCode == quic.ApplicationErrorErrorCode:
		return &ClosedError{} // "during the handshake": RFC 9000 section 10.2.3
	case errors.As(err, &app) && app.Remote && app.ErrorCode == codeNoPath:
		return fmt.Errorf("%w: the peer says %q", ErrNoPath, app.ErrorMessage)
	case errors.As(err, &app) && app.Remote:
		return &ClosedError{Reason: app.ErrorMessage}
	case errors.As(err, &app):
		return net.ErrClosed
	case errors.As(err, &idle):
		return fmt.Errorf("%w: nothing was heard from the peer any more", ErrNoPath)
	case err == nil, errors.Is(err, quic.ErrTransportClosed), errors.Is(err, context.Canceled):
		return net.ErrClosed
	}
	return fmt.Errorf("the link broke: %w", err)
}
