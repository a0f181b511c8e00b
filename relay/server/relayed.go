package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/pion/turn/v5"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// RelayAddr is where relayed sockets of one address family are opened.
type RelayAddr struct {
	// Listen is the IP address they are bound to; it may be unspecified. Required.
	Listen netip.Addr
	// Advertise is the IP address that peers reach them at, where that is another one (1:1 NAT).
	// Zero: Listen, which then must not be unspecified.
	Advertise netip.Addr
	// MinPort and MaxPort bound the ports, inclusive. Zero: 49152 to 65535 (RFC 8656 §7.2).
	MinPort, MaxPort uint16
}

var (
	errFamily = errors.New("no relayed addresses of this family")
	errTCP    = errors.New("no TCP allocations (RFC 6062) over UDP")
	errPorts  = errors.New("no free port")
)

// allocation is a relayed socket and the client it belongs to. It lives until Close, which pion
// calls on every end of an allocation. mu guards the maps and the flag.
type allocation struct {
	listener *listener
	client   netip.AddrPort
	user     string
	sock     socket
	relayed  netip.AddrPort // as advertised
	slot     *slot
	limit    int
	buf      []byte // of the one reader, with room for a ChannelData header in front

	mu        sync.RWMutex
	permitted map[netip.Addr]bool
	peers     map[uint16]netip.AddrPort // by channel
	channels  map[netip.AddrPort]uint16 // by peer
	closeOnce sync.Once
	isClosed  atomic.Bool
}

// generator is pion's RelayAddressGenerator for one listener; it runs in the goroutine that owns
// the listener's current request.
type generator struct{ l *listener }

var _ turn.RelayAddressGenerator = generator{}

func (g generator) Validate() error { return nil }

// AllocateListener refuses: a TCP allocation needs a TCP control connection (RFC 6062 §4.1).
func (g generator) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	g.l.current.code = codeBadTransport
	return nil, nil, errTCP
}

func (g generator) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errTCP }

// AllocatePacketConn opens a relayed socket for the current request. pion also calls it, without
// a user and always for IPv4, to find an even port; that socket it closes at once.
func (g generator) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	s, r := g.l.server, &g.l.current
	if c.UserID == "" && r.ipv6 {
		c.Network = "udp6"
	}
	at, ok := s.relayAddr(c.Network)
	if !ok {
		r.code = codeBadFamily
		return nil, nil, errFamily
	}
	conn, port, err := s.listenRelayed(at, c)
	if err != nil {
		return nil, nil, err
	}
	relayed := netip.AddrPortFrom(at.Advertise, port)
	if c.UserID == "" {
		return conn, net.UDPAddrFromAddrPort(relayed), nil
	}
	a := &allocation{
		listener: g.l, client: r.src, user: c.UserID, sock: newSocket(conn), relayed: relayed,
		slot: r.slot, limit: s.ledger.limits.PerAllocation, buf: make([]byte, maxDatagram),
		permitted: make(map[netip.Addr]bool),
		peers:     make(map[uint16]netip.AddrPort),
		channels:  make(map[netip.AddrPort]uint16),
	}
	r.slot = nil // now the allocation's
	s.opened(a)
	return a, net.UDPAddrFromAddrPort(relayed), nil
}

// portTries is how many ports are tried before a request is refused with 508.
const portTries = 32

// listenRelayed opens a socket at the port asked for, or at a random one: even, with a free odd
// one above it, where the client asked for that.
func (s *Server) listenRelayed(at RelayAddr, c turn.AllocateListenerConfig) (net.PacketConn, uint16, error) {
	if c.RequestedPort != 0 {
		if c.RequestedPort < int(at.MinPort) || c.RequestedPort > int(at.MaxPort) {
			return nil, 0, errPorts
		}
		conn, err := s.listen(c.Network, at.Listen, uint16(c.RequestedPort))
		return conn, uint16(c.RequestedPort), err
	}
	even := c.UserID == ""
	err := errPorts
	for range portTries {
		port := at.MinPort + uint16(rand.IntN(int(at.MaxPort)-int(at.MinPort)+1))
		if even {
			if port &^= 1; port < at.MinPort {
				continue
			}
		}
		conn, e := s.listen(c.Network, at.Listen, port)
		if e == nil {
			return conn, port, nil
		}
		err = e
	}
	return nil, 0, fmt.Errorf("opening a relayed socket: %w", err)
}

func (s *Server) listen(network string, ip netip.Addr, port uint16) (net.PacketConn, error) {
	return s.cfg.ListenPacket(network, net.JoinHostPort(ip.String(), strconv.Itoa(int(port))))
}

// relayAddr finds the relayed addresses' place for "udp4" or "udp6".
func (s *Server) relayAddr(network string) (RelayAddr, bool) {
	for _, at := range s.relay {
		if at.Advertise.Is4() == (network == "udp4") {
			return at, true
		}
	}
	return RelayAddr{}, false
}

// ReadFrom gives pion what goes out as a Data indication; what has a channel is relayed here.
func (a *allocation) ReadFrom(b []byte) (int, net.Addr, error) {
	for failed := 0; ; {
		n, from, err := a.sock.read(a.buf[channelDataHeadLen:])
		if err != nil {
			a.endReader()
			if failed++; failed < maxReadErrors && !errors.Is(err, net.ErrClosed) {
				continue
			}
			return 0, nil, net.ErrClosed
		}
		failed = 0
		if !a.listener.server.pacer.allow(n) {
			a.listener.server.stats.paced.Add(1)
			continue
		}
		from = a.listener.server.advertisedOf(from)
		payload := a.buf[channelDataHeadLen : channelDataHeadLen+n]
		if number, ok := a.channelTo(from); ok {
			a.deliver(number, payload)
		} else if a.isPermitted(from.Addr()) {
			return copy(b, payload), net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// endReader ends pion's reading goroutine, which is the caller, once pion has closed a. With an
// error that goroutine would delete the allocation of a's 5-tuple, and by now that may be the
// client's next one.
func (a *allocation) endReader() {
	if a.isClosed.Load() {
		runtime.Goexit()
	}
}

// deliver sends payload, which lies in a.buf behind room for a header, to the client.
func (a *allocation) deliver(number uint16, payload []byte) {
	packet.AppendChannelData(a.buf[:0], number, nil)
	a.buf[2], a.buf[3] = byte(len(payload)>>8), byte(len(payload))
	if _, err := a.listener.sock.write(a.buf[:channelDataHeadLen+len(payload)], a.client); err == nil {
		a.listener.server.stats.relayedDown(len(payload))
	}
}

// WriteTo is pion's way to relay a Send indication.
func (a *allocation) WriteTo(b []byte, to net.Addr) (int, error) {
	return a.send(b, addrPortOf(to))
}

// send relays one payload to peer, if the policy lets it.
func (a *allocation) send(b []byte, peer netip.AddrPort) (int, error) {
	s := a.listener.server
	to, relayed := s.localOf(peer)
	if !s.policy.sends(peer, relayed) {
		s.stats.denied.Add(1)
		return len(b), nil // nobody is told: the peer was permitted by address alone
	}
	if !s.pacer.allow(len(b)) {
		s.stats.paced.Add(1)
		return len(b), nil
	}
	n, err := a.sock.write(b, to)
	if err == nil {
		s.stats.relayedUp(n)
	}
	return n, err
}

// Close ends the allocation, gives its slot back and closes the socket.
func (a *allocation) Close() error {
	a.closeOnce.Do(func() {
		a.isClosed.Store(true)
		a.listener.server.closed(a)
	})
	return nil
}
