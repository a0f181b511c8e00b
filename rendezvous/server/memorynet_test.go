package server

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// memoryNet carries datagrams between sockets in memory after a delay. It has
// no NAT.
type memoryNet struct {
	delay time.Duration

	mu    sync.Mutex
	next  byte
	at    map[netip.AddrPort]*memoryConn
	drop  func(from, to netip.AddrPort) bool // nil drops nothing
	moved map[netip.AddrPort]netip.AddrPort  // sources that the world sees elsewhere, as after a NAT's restart
}

func newMemoryNet(delay time.Duration) *memoryNet {
	return &memoryNet{delay: delay, at: make(map[netip.AddrPort]*memoryConn), moved: make(map[netip.AddrPort]netip.AddrPort)}
}

// listen opens a socket at addr, or at a fresh address where addr is zero.
func (n *memoryNet) listen(addr netip.AddrPort) *memoryConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !addr.IsValid() {
		n.next++
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n.next}), 4000)
	}
	c := &memoryConn{net: n, addr: addr, queue: make(chan memoryPacket, 4096), closed: make(chan struct{}), wake: make(chan struct{})}
	n.at[addr] = c
	return c
}

func (n *memoryNet) setDrop(drop func(from, to netip.AddrPort) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = drop
}

func (n *memoryNet) send(b []byte, from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drop != nil && n.drop(from, to) {
		return
	}
	if seen, ok := n.moved[from]; ok {
		from = seen
	}
	for real, seen := range n.moved {
		if seen == to {
			to = real
		}
	}
	p := memoryPacket{append([]byte(nil), b...), from}
	time.AfterFunc(n.delay, func() {
		n.mu.Lock()
		c := n.at[to]
		n.mu.Unlock()
		if c == nil {
			return
		}
		select {
		case c.queue <- p:
		default:
		}
	})
}

type memoryPacket struct {
	b    []byte
	from netip.AddrPort
}

type memoryConn struct {
	net    *memoryNet
	addr   netip.AddrPort
	queue  chan memoryPacket
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	deadline time.Time
	wake     chan struct{}
}

func (c *memoryConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c.mu.Lock()
		deadline, wake := c.deadline, c.wake
		c.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			if !deadline.After(time.Now()) {
				return 0, nil, os.ErrDeadlineExceeded
			}
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			expired = timer.C
		}
		select {
		case p := <-c.queue:
			return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
		case <-wake:
		case <-expired:
		case <-c.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

func (c *memoryConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	c.net.send(b, c.addr, to.(*net.UDPAddr).AddrPort())
	return len(b), nil
}

func (c *memoryConn) Close() error {
	c.once.Do(func() {
		c.net.mu.Lock()
		if c.net.at[c.addr] == c {
			delete(c.net.at, c.addr)
		}
		c.net.mu.Unlock()
		close(c.closed)
	})
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.addr) }

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	close(c.wake)
	c.wake = make(chan struct{})
	return nil
}

func (c *memoryConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) SetReadBuffer(int) error          { return nil }
func (c *memoryConn) SetWriteBuffer(int) error         { return nil }
