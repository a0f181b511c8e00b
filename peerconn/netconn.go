package peerconn

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
)

// Addr is the address of a peer as package net sees it: its PeerID.
type Addr struct{ Peer sallyport.PeerID }

// Network returns "sally".
func (Addr) Network() string { return "sally" }

// String returns the PeerID.
func (a Addr) String() string { return a.Peer.String() }

// streamConn is a stream as a net.Conn.
type streamConn struct {
	*Stream
	link   *Link
	closed atomic.Bool
}

// Read is that of the stream; after Close it returns net.ErrClosed.
func (c *streamConn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	return n, c.explain(err)
}

// Write is that of the stream; after Close it returns net.ErrClosed.
func (c *streamConn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	return n, c.explain(err)
}

func (c *streamConn) explain(err error) error {
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// LocalAddr returns this host's PeerID as an [Addr].
func (c *streamConn) LocalAddr() net.Addr { return Addr{c.link.h.PeerID()} }

// RemoteAddr returns the peer's PeerID as an [Addr].
func (c *streamConn) RemoteAddr() net.Addr { return Addr{c.link.Peer()} }

// CloseWrite ends this side's direction only, as *net.TCPConn does.
func (c *streamConn) CloseWrite() error { return c.Stream.Close() }

// Close ends both directions: what was written is still delivered, what arrives
// is no longer read. A Write that waits for the peer to read ends.
func (c *streamConn) Close() error {
	c.closed.Store(true)
	c.Stream.CancelRead(0)
	c.Stream.SetWriteDeadline(time.Unix(1, 0)) // Stream.Close alone does not wake it
	c.Stream.Close()                           // an error says that the peer stopped reading, or the link ended, before: it is closed
	return nil
}

// DialConn opens a stream of the link as a net.Conn. The peer's Listener returns
// it with the first byte written, so the dialing side must speak first, as HTTP
// and gRPC do. Closing it leaves the link open.
func (l *Link) DialConn(ctx context.Context) (net.Conn, error) {
	s, err := l.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return &streamConn{Stream: s, link: l}, nil
}

// Listener returns the streams that the peer opens as a net.Listener. Closing it
// leaves the link open. Use either it or AcceptStream.
func (l *Link) Listener() net.Listener {
	return newListener(Addr{l.h.PeerID()}, l.acceptConn)
}

func (l *Link) acceptConn(ctx context.Context) (net.Conn, error) {
	s, err := l.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return &streamConn{Stream: s, link: l}, nil
}

// Listener returns the streams that any peer opens on any link as one
// net.Listener, for http.Serve or a gRPC server. RemoteAddr of a connection is
// the peer's proven PeerID, an [Addr]. Closing it closes the links it accepted. Use
// either it or Accept.
func (h *Host) Listener() net.Listener {
	streams := make(chan net.Conn)
	l := newListener(Addr{h.PeerID()}, func(ctx context.Context) (net.Conn, error) {
		select {
		case c := <-streams:
			return c, nil
		case <-h.ctx.Done():
			return nil, net.ErrClosed
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	h.tasks.Go(func() { // ends with the listener or the host
		for {
			link, err := h.Accept(l.ctx)
			if err != nil {
				return
			}
			h.tasks.Go(func() { link.feed(l.ctx, streams) })
		}
	})
	return l
}

// feed hands the link's streams on until it or ctx ends.
func (l *Link) feed(ctx context.Context, streams chan<- net.Conn) {
	defer l.Close()
	for {
		c, err := l.acceptConn(ctx)
		if err != nil {
			return
		}
		select {
		case streams <- c:
		case <-ctx.Done():
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// listener makes a net.Listener of an accepting function.
type listener struct {
	addr   net.Addr
	accept func(context.Context) (net.Conn, error)
	ctx    context.Context // ends with Close, which is what unblocks Accept
	cancel context.CancelFunc
	once   sync.Once
}

func newListener(addr net.Addr, accept func(context.Context) (net.Conn, error)) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{addr: addr, accept: accept, ctx: ctx, cancel: cancel}
}

// Accept returns the next stream; net.ErrClosed after Close.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.accept(l.ctx)
	if err != nil && l.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	return c, err
}

// Close unblocks Accept.
func (l *listener) Close() error {
	l.once.Do(l.cancel)
	return nil
}

// Addr returns this host's PeerID as an [Addr].
func (l *listener) Addr() net.Addr { return l.addr }
