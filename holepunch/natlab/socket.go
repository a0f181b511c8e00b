package natlab

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// TTLWriter is implemented by sockets that can send one packet with a TTL of its own, as a
// punching packet that shall open the near NAT and die before the far one.
type TTLWriter interface {
	WriteToTTL(b []byte, addr net.Addr, ttl int) (int, error)
}

// Socket is the net.PacketConn that Host.ListenPacket returns. It behaves as a *net.UDPConn does
// on Linux with the don't-fragment bit set: a datagram larger than the link's MTU is refused with
// EMSGSIZE; nobody learns of packets dropped further on. Safe for concurrent use.
type Socket struct {
	host    *Host
	network string
	local   netip.AddrPort   // unspecified :: for both families
	keys    []netip.AddrPort // in host.sockets

	mu      sync.Mutex // guards the fields below; taken after Internet.mu
	arrived sync.Cond  // a datagram, a new deadline or the end
	queue   []Packet   // from head on
	head    int
	dropped uint64
	closed  bool
	read    deadline
	write   deadline
}

var (
	_ net.PacketConn = (*Socket)(nil)
	_ TTLWriter      = (*Socket)(nil)
)

// deadline wakes the readers when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// LocalAddr returns a new *net.UDPAddr.
func (s *Socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.local) }

// ReadFrom reads one datagram, and cuts it off if b is too short for it. The address is a new
// *net.UDPAddr.
func (s *Socket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without allocation. The address is unmapped.
func (s *Socket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, netip.AddrPort{}, s.opError("read", nil, net.ErrClosed)
		case s.read.passed():
			return 0, netip.AddrPort{}, s.opError("read", nil, os.ErrDeadlineExceeded)
		case s.head < len(s.queue):
			p := s.pop()
			return copy(b, p.Payload), p.Src, nil
		}
		s.arrived.Wait()
	}
}

func (s *Socket) pop() Packet {
	p := s.queue[s.head]
	s.queue[s.head] = Packet{}
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	}
	return p
}

// deliver puts a packet into the receive queue; a full one drops the newest.
func (s *Socket) deliver(p Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrNoSocket
	}
	limit := s.host.in.cfg.ReceiveQueue
	if len(s.queue)-s.head >= limit {
		s.dropped++
		return ErrQueueFull
	}
	if s.head > limit { // keep the slice bounded under a reader that never quite catches up
		s.queue = append(s.queue[:0], s.queue[s.head:]...)
		s.head = 0
	}
	s.queue = append(s.queue, p)
	s.arrived.Signal()
	return nil
}

// Dropped returns the number of datagrams lost because the receive queue was full.
func (s *Socket) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// WriteTo sends one datagram to addr, a *net.UDPAddr.
func (s *Socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	return s.WriteToTTL(b, addr, DefaultTTL)
}

// WriteToTTL sends one datagram with the given TTL (1–255).
func (s *Socket) WriteToTTL(b []byte, addr net.Addr, ttl int) (int, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok || ua == nil {
		return 0, s.opError("write", addr, syscall.EINVAL)
	}
	if ttl < 1 || ttl > 255 {
		return 0, s.opError("write", addr, os.NewSyscallError("setsockopt", syscall.EINVAL))
	}
	return s.send(b, ua.AddrPort(), uint8(ttl))
}

// WriteToUDPAddrPort is WriteTo without a net.Addr.
func (s *Socket) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	return s.send(b, addr, DefaultTTL)
}

func (s *Socket) send(b []byte, dst netip.AddrPort, ttl uint8) (int, error) {
	dst = unmapped(dst)
	err := s.writable()
	if err == nil {
		err = s.host.send(s, dst, ttl, b)
	}
	if err != nil {
		return 0, s.opError("write", net.UDPAddrFromAddrPort(dst), err)
	}
	return len(b), nil
}

func (s *Socket) writable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.write.passed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Close unblocks all readers with net.ErrClosed. A second Close returns net.ErrClosed, as that of
// a *net.UDPConn does.
func (s *Socket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return s.opError("close", nil, net.ErrClosed)
	}
	s.closed = true
	s.queue, s.head = nil, 0
	for _, d := range []*deadline{&s.read, &s.write} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	s.arrived.Broadcast()
	s.mu.Unlock()
	s.host.unbind(s)
	return nil
}

// SetDeadline sets both deadlines.
func (s *Socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes blocked and future reads fail with os.ErrDeadlineExceeded from t on; a
// time in the past wakes blocked readers at once, the zero time takes the deadline away.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", nil, net.ErrClosed)
	}
	s.read.at = t
	if s.read.timer != nil {
		s.read.timer.Stop()
	}
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		s.read.timer = time.AfterFunc(wait, s.wake)
	}
	s.arrived.Broadcast()
	return nil
}

// wake lets blocked readers look at the deadline again.
func (s *Socket) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived.Broadcast()
}

// SetWriteDeadline makes writes fail with os.ErrDeadlineExceeded from t on. Writes never block.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.opError("set", nil, net.ErrClosed)
	}
	s.write.at = t
	return nil
}

// SetReadBuffer does nothing: see Config.ReceiveQueue.
func (s *Socket) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing: writes never wait.
func (s *Socket) SetWriteBuffer(int) error { return nil }

func (s *Socket) opError(op string, addr net.Addr, err error) error {
	return &net.OpError{Op: op, Net: s.network, Source: s.LocalAddr(), Addr: addr, Err: err}
}
