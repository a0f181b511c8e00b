package relay_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/relay"
	"github.com/sallyport-net/sallyport/relay/server"
)

// memNet is a network in memory without NATs: one delay, and a test's hand on every packet.
// watching guards filter, mu all fields below it.
type memNet struct {
	delay    time.Duration
	watching sync.Mutex
	filter   func(b []byte, from, to netip.AddrPort) bool

	mu    sync.Mutex
	conns map[netip.AddrPort]*memConn
	next  uint16
	air   []flight // in the order in which they were sent, which is that of arrival
}

type flight struct {
	memPacket
	to netip.AddrPort
}

type memPacket struct {
	b    []byte
	from netip.AddrPort
}

type memConn struct {
	net    *memNet
	addr   netip.AddrPort
	queue  chan memPacket
	once   sync.Once
	closed chan struct{}
}

func newMemNet(delay time.Duration) *memNet {
	return &memNet{delay: delay, conns: make(map[netip.AddrPort]*memConn), next: 20000}
}

// at opens sockets on the host ip, whatever address is asked for.
func (n *memNet) at(ip string) func(network, address string) (net.PacketConn, error) {
	return func(_, address string) (net.PacketConn, error) {
		want, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return n.open(netip.AddrPortFrom(netip.MustParseAddr(ip), want.Port()))
	}
}

func (n *memNet) open(addr netip.AddrPort) (*memConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr.Port() == 0 {
		n.next++
		addr = netip.AddrPortFrom(addr.Addr(), n.next)
	}
	if n.conns[addr] != nil {
		return nil, fmt.Errorf("%v is in use", addr)
	}
	c := &memConn{net: n, addr: addr, queue: make(chan memPacket, 4096), closed: make(chan struct{})}
	n.conns[addr] = c
	return c, nil
}

// watch sets the function that sees each packet as it is sent, one at a time; false drops it.
func (n *memNet) watch(filter func(b []byte, from, to netip.AddrPort) bool) {
	n.watching.Lock()
	defer n.watching.Unlock()
	n.filter = filter
}

func (n *memNet) passes(p memPacket, to netip.AddrPort) bool {
	n.watching.Lock()
	defer n.watching.Unlock()
	return n.filter == nil || n.filter(p.b, p.from, to)
}

func (n *memNet) send(f flight) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.air = append(n.air, f)
	time.AfterFunc(n.delay, n.land)
}

// land delivers the packet that is longest under way.
func (n *memNet) land() {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.air[0]
	n.air = n.air[1:]
	n.put(f.memPacket, f.to)
}

// deliver delivers at once.
func (n *memNet) deliver(p memPacket, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.put(p, to)
}

func (n *memNet) put(p memPacket, to netip.AddrPort) {
	if c := n.conns[to]; c != nil {
		select {
		case c.queue <- p:
		default: // full: lost
		}
	}
}

func (c *memConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	dst := to.(*net.UDPAddr).AddrPort()
	p := memPacket{append([]byte(nil), b...), c.addr}
	if c.net.passes(p, dst) {
		c.net.send(flight{p, dst})
	}
	return len(b), nil
}

func (c *memConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.queue:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *memConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		delete(c.net.conns, c.addr)
	})
	return nil
}

func (c *memConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.addr) }
func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }

const (
	serverIP = "20.0.0.1"
	clientIP = "20.0.1.1"
	peerIP   = "20.0.2.1"
)

// lab is a server, a client's configuration and a peer's socket on a memNet, inside a synctest bubble.
type lab struct {
	*harness
	net  *memNet
	peer *memConn
	in   inbox
}

func newLab(t *testing.T, delay time.Duration) *lab {
	t.Helper()
	n := newMemNet(delay)
	l := &lab{net: n, in: make(inbox, 64)}
	l.serve(t)
	var err error
	if l.peer, err = n.open(netip.MustParseAddrPort(peerIP + ":5000")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.peer.Close() })
	return l
}

// serve starts a server at the lab's server address.
func (l *lab) serve(t *testing.T) {
	t.Helper()
	conn, err := l.net.open(netip.MustParseAddrPort(serverIP + ":3478"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{
		Conns:        []net.PacketConn{conn},
		Relay:        []server.RelayAddr{{Listen: netip.MustParseAddr(serverIP)}},
		Secrets:      func() [][]byte { return [][]byte{secret} },
		ListenPacket: l.net.at(serverIP),
		Interfaces:   func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(serverIP)}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	l.harness = &harness{Server: s, t: t, addr: conn.addr}
	t.Cleanup(func() { _ = s.Close() })
}

func (l *lab) config() relay.Config {
	cfg := l.harness.config("alice")
	cfg.ListenPacket, cfg.Receive = l.net.at(clientIP), l.in.receive
	return cfg
}
