package peerconn

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/internal/packet"
)

// socket is the host's one UDP socket as QUIC sees it. Everything of the host
// goes through it: QUIC to nodes at their real addresses, QUIC to peers at
// virtual addresses that stand for a route, STUN, checks and TURN. Reading
// happens in QUIC's own read loop, so that a datagram of a link costs no
// hand-over between goroutines; what is not QUIC is dealt with on the way.
//
// QUIC from an address that is neither a node we dialed nor a path of a route is
// dropped: strangers get no answer at all.
type socket struct {
	pc    net.PacketConn
	udp   *net.UDPConn     // pc, where it is a kernel socket
	batch *ipv4.PacketConn // reads pc in batches, where it is a kernel socket
	log   *slog.Logger

	onCheck func(from holepunch.Path, b []byte)      // a connectivity check
	onSTUN  func(from netip.AddrPort, b []byte) bool // STUN or channel data; false: not for us
	routeOf func(virtual netip.Addr) *route          // the route behind a virtual address
	dropped atomic.Uint64                            // datagrams that nobody wanted

	mu     sync.RWMutex                // guards what follows
	owners map[holepunch.Path][]*route // the last one gets what arrives
	plain  map[netip.AddrPort]int      // nodes we talk QUIC to, by number of users

	inbox     inbox
	strangers strangers
	closed    atomic.Bool
}

// maxDatagram is the largest QUIC packet that fits every path: 1,500 bytes less
// IPv6, UDP and channel data headers, rounded down. Larger ones, which only
// path MTU discovery sends, vanish as on a real path of that MTU.
const maxDatagram = 1440

func newSocket(pc net.PacketConn, log *slog.Logger) *socket {
	s := &socket{
		pc:     pc,
		log:    log,
		owners: make(map[holepunch.Path][]*route),
		plain:  make(map[netip.AddrPort]int),
	}
	if udp, ok := pc.(*net.UDPConn); ok {
		s.udp, s.batch = udp, ipv4.NewPacketConn(udp)
	}
	s.inbox.wake = func() { pc.SetReadDeadline(time.Unix(1, 0)) }
	return s
}

// transportConn is what quic.Transport is given.
func (s *socket) transportConn() net.PacketConn {
	if s.udp != nil {
		return &kernelSocket{s}
	}
	return s
}

// own makes r the owner of what arrives over p, until disown. The newest owner
// gets it; QUIC finds the right connection by its ID in any case.
func (s *socket) own(p holepunch.Path, r *route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.owners[p], r) {
		s.owners[p] = append(s.owners[p], r)
	}
}

// disown forgets everything that r owns.
func (s *socket) disown(r *route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, owners := range s.owners {
		owners = slices.DeleteFunc(owners, func(o *route) bool { return o == r })
		if len(owners) == 0 {
			delete(s.owners, p)
		} else {
			s.owners[p] = owners
		}
	}
}

// admit lets QUIC from a node's address in until the returned func is called.
func (s *socket) admit(addr netip.AddrPort) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plain[addr]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.plain[addr]--; s.plain[addr] == 0 {
			delete(s.plain, addr)
		}
	})
}

// send writes b to a real address, outside QUIC.
func (s *socket) send(b []byte, to netip.AddrPort) error {
	_, err := s.pc.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

// ttlWriter is a socket that can set a time to live for each datagram.
type ttlWriter interface {
	WriteToTTL(b []byte, to net.Addr, ttl int) (int, error)
}

// openerTTL is the time to live of packets that open our own NAT and go no
// further: they pass the router of this network and die at the next one. A larger
// one would pass two layers of NAT, and reach the peer's where the internet between
// is short. It is 0 where the socket cannot set one.
func (s *socket) openerTTL() int {
	if _, ok := s.pc.(ttlWriter); ok || s.udp != nil && canSetTTL {
		return 2
	}
	return 0
}

// sendTTL is send with a time to live; 0 is the system's.
func (s *socket) sendTTL(b []byte, to netip.AddrPort, ttl int) error {
	if ttl == 0 {
		return s.send(b, to)
	}
	if c, ok := s.pc.(ttlWriter); ok {
		_, err := c.WriteToTTL(b, net.UDPAddrFromAddrPort(to), ttl)
		return err
	}
	_, _, err := s.udp.WriteMsgUDP(b, ttlControl(ttl, to.Addr()), net.UDPAddrFromAddrPort(to))
	return err
}

// sort deals with one datagram. It returns the address under which QUIC is to
// see it, or nil where it is not QUIC's.
func (s *socket) sort(b []byte, from net.Addr) net.Addr {
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return nil
	}
	addr := unmap(udp.AddrPort())
	switch packet.Classify(b) {
	case packet.QUIC:
		return s.sortQUIC(holepunch.Path{Remote: addr}, from)
	case packet.Check:
		s.onCheck(holepunch.Path{Remote: addr}, b)
	case packet.STUN, packet.ChannelData:
		if !s.onSTUN(addr, b) {
			s.dropped.Add(1)
		}
	default:
		s.dropped.Add(1)
	}
	return nil
}

func (s *socket) sortQUIC(p holepunch.Path, from net.Addr) net.Addr {
	var r *route
	s.mu.RLock()
	if owners := s.owners[p]; len(owners) > 0 {
		r = owners[len(owners)-1]
	}
	_, known := s.plain[p.Remote]
	s.mu.RUnlock()
	switch {
	case r != nil:
		r.received(p)
		if r.hush.heard() {
			r.wake()
		}
		return r.virtual
	case known && p.Base == 0:
		return from
	}
	s.dropped.Add(1)
	return nil
}

// deliver is for what did not arrive at the socket itself but through a relay, on
// the goroutine that read it. b is the caller's again when it returns.
func (s *socket) deliver(p holepunch.Path, b []byte) {
	switch packet.Classify(b) {
	case packet.Check:
		s.onCheck(p, b)
	case packet.QUIC:
		if virtual := s.sortQUIC(p, nil); virtual != nil {
			s.inbox.add(b, virtual)
		}
	default:
		s.dropped.Add(1)
	}
}

// ReadFrom returns the next QUIC datagram. Only quic.Transport calls it.
func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if n, from, ok := s.inbox.take(b); ok {
			return n, from, nil
		}
		n, from, err := s.pc.ReadFrom(b)
		if err != nil {
			if err := s.readError(err); err != nil {
				return 0, nil, err
			}
			continue
		}
		if as := s.sort(b[:n], from); as != nil {
			return n, as, nil
		}
	}
}

// readError says whether err ends reading. A deadline in the past is how the
// inbox and Close wake the reader.
func (s *socket) readError(err error) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.pc.SetReadDeadline(time.Time{})
		if s.closed.Load() {
			return net.ErrClosed
		}
		return nil
	}
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return transientRead(err)
}

// transientRead filters the errors that a UDP socket reports for packets sent
// earlier (an ICMP answer, on some systems): they say nothing about reading.
func transientRead(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return nil
	}
	return err
}

// WriteTo sends a QUIC datagram to a real or virtual address.
func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, net.InvalidAddrError("not a UDP address")
	}
	if !isVirtual(udp.IP) {
		return s.pc.WriteTo(b, addr)
	}
	return len(b), s.writeRoute(b, udp, 0)
}

// writeRoute hands b, which holds datagrams of segment bytes (0: just one), to
// the route behind a virtual address. A route that is gone swallows it.
func (s *socket) writeRoute(b []byte, addr *net.UDPAddr, segment int) error {
	virtual, _ := netip.AddrFromSlice(addr.IP)
	r := s.routeOf(virtual)
	if r == nil || segment == 0 && len(b) > maxDatagram {
		return nil
	}
	return r.write(b, segment)
}

// LocalAddr returns the socket's address.
func (s *socket) LocalAddr() net.Addr { return s.pc.LocalAddr() }

// Close does nothing: the host owns the socket and closes it with shut.
func (s *socket) Close() error { return nil }

// SetReadDeadline ends reading: quic.Transport calls it when it closes.
func (s *socket) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	s.closed.Store(true)
	return s.pc.SetReadDeadline(t)
}

// SetReadBuffer sets the receive buffer of the socket underneath, where that
// has one to set.
func (s *socket) SetReadBuffer(n int) error {
	if c, ok := s.pc.(interface{ SetReadBuffer(int) error }); ok {
		return c.SetReadBuffer(n)
	}
	return nil
}

// SetWriteBuffer sets the send buffer in the same way.
func (s *socket) SetWriteBuffer(n int) error {
	if c, ok := s.pc.(interface{ SetWriteBuffer(int) error }); ok {
		return c.SetWriteBuffer(n)
	}
	return nil
}

// SetDeadline is not used by QUIC.
func (s *socket) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline is not used by QUIC.
func (s *socket) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// unmap gives the one form in which addresses are compared here.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// inbox holds datagrams that reach QUIC by another way than the socket.
type inbox struct {
	wake func() // makes a blocked read of the socket return

	mu    sync.Mutex // guards what follows
	queue []letter
	spare [][]byte // buffers to be used again
}

type letter struct {
	b    []byte
	from net.Addr
}

const (
	maxInbox = 512 // datagrams; what does not fit is lost, as on a full link
	maxSpare = 16  // two of QUIC's batches
)

// put is for every goroutine but the reader's.
func (q *inbox) put(b []byte, from net.Addr) {
	if q.add(b, from) {
		q.wake()
	}
}

// add is put for the reader's own goroutine, which looks in here before it reads
// again. It reports whether there was room.
func (q *inbox) add(b []byte, from net.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxInbox {
		return false
	}
	var buf []byte
	if n := len(q.spare); n > 0 {
		buf, q.spare = q.spare[n-1][:0], q.spare[:n-1]
	}
	q.queue = append(q.queue, letter{append(buf, b...), from})
	return true
}

func (q *inbox) take(b []byte) (int, net.Addr, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		return 0, nil, false
	}
	first := q.queue[0]
	q.queue = slices.Delete(q.queue, 0, 1) // few: the reader takes all before it reads more
	if len(q.spare) < maxSpare {
		q.spare = append(q.spare, first.b)
	}
	return copy(b, first.b), first.from, true
}
