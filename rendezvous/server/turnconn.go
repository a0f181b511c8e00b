package server

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const turnQueue = 256

// turnConn is the TURN part of a socket.
type turnConn struct {
	conn  net.PacketConn
	queue chan turnPacket

	mu       sync.Mutex // guards what follows
	closed   chan struct{}
	isClosed bool
	wake     chan struct{} // closed when the deadline passes or changes
	timer    *time.Timer
	set      int // how often the deadline was set
	expired  bool
}

type turnPacket struct {
	b    []byte
	from netip.AddrPort
}

func newTURNConn(conn net.PacketConn) *turnConn {
	return &turnConn{
		conn:   conn,
		queue:  make(chan turnPacket, turnQueue),
		closed: make(chan struct{}),
		wake:   make(chan struct{}),
	}
}

// deliver copies b into the queue, or drops it where the queue is full.
func (c *turnConn) deliver(b []byte, from netip.AddrPort) {
	if len(c.queue) == cap(c.queue) {
		return // before the copy
	}
	select {
	case c.queue <- turnPacket{bytes.Clone(b), from}:
	default:
	}
}

// ReadFrom reads the next TURN datagram.
func (c *turnConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		wake, expired, closed := c.wake, c.expired, c.isClosed
		c.mu.Unlock()
		switch {
		case closed:
			return 0, nil, net.ErrClosed
		case expired:
			return 0, nil, os.ErrDeadlineExceeded
		}
		select {
		case p := <-c.queue:
			return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
		case <-wake:
		case <-c.closed:
		}
	}
}

// WriteTo sends from the socket.
func (c *turnConn) WriteTo(b []byte, to net.Addr) (int, error) { return c.conn.WriteTo(b, to) }

// Close ends every read; the socket itself stays open.
func (c *turnConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed {
		c.isClosed = true
		close(c.closed)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	return nil
}

// LocalAddr is the socket's.
func (c *turnConn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// SetReadDeadline bounds reads, those under way too.
func (c *turnConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.set++
	c.expired = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !c.expired {
		c.timer = time.AfterFunc(time.Until(t), c.expire(c.set))
	}
	close(c.wake)
	c.wake = make(chan struct{})
	return nil
}

// expire returns what the timer of a deadline does, if it is still the last.
func (c *turnConn) expire(set int) func() {
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.set != set {
			return
		}
		c.expired = true
		close(c.wake)
		c.wake = make(chan struct{})
	}
}

// SetDeadline is SetReadDeadline: writes do not block.
func (c *turnConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: writes do not block.
func (c *turnConn) SetWriteDeadline(time.Time) error { return nil }
