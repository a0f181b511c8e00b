package server

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	turnQueue  = 256
	turnBuffer = 2048 // larger packets are rare and allocated
)

// turnConn is the TURN part of a socket.
type turnConn struct {
	conn  net.PacketConn
	out   datagrams
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
	buf  *[turnBuffer]byte // nil where b is allocated
	b    []byte
	from netip.AddrPort
}

var turnBuffers = sync.Pool{New: func() any { return new([turnBuffer]byte) }}

func newTURNConn(conn net.PacketConn, out datagrams) *turnConn {
	return &turnConn{
		conn:   conn,
		out:    out,
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
	p := turnPacket{from: from}
	if len(b) <= turnBuffer {
		p.buf = turnBuffers.Get().(*[turnBuffer]byte)
		p.b = p.buf[:copy(p.buf[:], b)]
	} else {
		p.b = append([]byte(nil), b...)
	}
	select {
	case c.queue <- p:
	default:
		p.release()
	}
}

func (p turnPacket) release() {
	if p.buf != nil {
		turnBuffers.Put(p.buf)
	}
}

// ReadFromUDPAddrPort reads the next TURN datagram, as *net.UDPConn does.
func (c *turnConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		c.mu.Lock()
		wake, expired, closed := c.wake, c.expired, c.isClosed
		c.mu.Unlock()
		switch {
		case closed:
			return 0, netip.AddrPort{}, net.ErrClosed
		case expired:
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		}
		select {
		case p := <-c.queue:
			n := copy(b, p.b)
			p.release()
			return n, p.from, nil
		case <-wake:
		case <-c.closed:
		}
	}
}

// ReadFrom reads the next TURN datagram.
func (c *turnConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteToUDPAddrPort sends from the socket, as *net.UDPConn does.
func (c *turnConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if err := c.out.write(b, to, nil); err != nil {
		return 0, err
	}
	return len(b), nil
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
