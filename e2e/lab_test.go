package e2e

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
	"github.com/sallyport-net/sallyport/relay"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous"
	nodeserver "github.com/sallyport-net/sallyport/rendezvous/server"
)

// uplink is the one-way delay of every site and of the node, so that two peers
// are 80 ms apart there and back and each is 40 ms from the node.
const uplink = 20 * time.Millisecond

// lab is an internet with one node.
type lab struct {
	t    *testing.T
	net  *natlab.Internet
	node *node
	ipv6 bool // nodes and relays have IPv6 too, and names that hosts look up
}

// node is a rendezvous node with a relay, as `sally serve` wires it.
type node struct {
	host  *natlab.Host
	id    *sallyport.Identity
	url   sallyport.NodeURL
	relay bool
	stop  func()
}

func newLab(t *testing.T, cfg natlab.Config) *lab {
	t.Helper()
	cfg.Link.Latency = uplink
	l := &lab{t: t, net: natlab.New(cfg)}
	t.Cleanup(func() { l.net.Close() })
	return l
}

// startNode puts a node on the internet; its uplink has no delay.
func (l *lab) startNode(withRelay bool) {
	l.t.Helper()
	l.startNamedNode("node", withRelay)
}

func (l *lab) startNamedNode(name string, withRelay bool) {
	l.t.Helper()
	n := &node{
		host:  l.net.Host(name, natlab.HostConfig{IPv6: l.ipv6, Link: natlab.LinkConfig{Latency: time.Nanosecond}}),
		id:    newIdentity(l.t),
		relay: withRelay,
	}
	n.url = sallyport.NodeURL{ID: n.id.PeerID(), Host: n.host.Addr().String(), Port: sallyport.DefaultNodePort}
	if l.ipv6 {
		n.url.Host = name + ".test"
	}
	l.node = n
	n.start(l.t)
	l.t.Cleanup(func() { n.stop() })
}

// addNode starts a further node.
func (l *lab) addNode(name string, withRelay bool) *node {
	l.t.Helper()
	was := l.node
	l.startNamedNode(name, withRelay)
	n := l.node
	l.node = was
	return n
}

const relaySecret = "a secret for relays only"

func (n *node) start(t *testing.T) {
	t.Helper()
	conns, at := listenAll(t, n.host, n.url.Port)
	cfg := nodeserver.Config{
		Identity:  n.id,
		Conns:     conns,
		Advertise: at,
		Mint:      relay.MintCredential,
		ProbeRelay: func(ctx context.Context, r rendezvous.Relay) error {
			return relay.Probe(ctx, relay.Config{Server: r.Addrs[0], Username: r.Username, Password: r.Password, ListenPacket: n.host.ListenPacket})
		},
	}
	if n.relay {
		cfg.Relays = []nodeserver.StaticRelay{{Name: "node", ID: n.id.PeerID(), Addrs: at, Secret: func() []byte { return []byte(relaySecret) }}}
	}
	srv, err := nodeserver.New(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Run(ctx)
	}()
	var turn *relayserver.Server
	if n.relay {
		var part []net.PacketConn
		for i := range conns {
			part = append(part, srv.TURN(i))
		}
		turn = startTURN(t, n.host, part, relaySecret)
	}
	n.stop = func() {
		cancel()
		if turn != nil {
			turn.Close()
		}
		srv.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
		n.stop = func() {}
	}
}

// crash stops the node without a word to anybody, as a power failure does.
func (n *node) crash() {
	n.host.Link().Cut()
	n.stop()
	n.host.Link().Restore()
}

// listenAll opens one socket for each address of h.
func listenAll(t *testing.T, h *natlab.Host, port uint16) (conns []net.PacketConn, at []netip.AddrPort) {
	t.Helper()
	for _, p := range h.Addrs() {
		addr := netip.AddrPortFrom(p.Addr(), port)
		conn, err := h.ListenPacket("udp", addr.String())
		check(t, err)
		conns, at = append(conns, conn), append(at, addr)
	}
	return conns, at
}

func startTURN(t *testing.T, host *natlab.Host, conns []net.PacketConn, secret string) *relayserver.Server {
	t.Helper()
	cfg := relayserver.Config{
		Conns:        conns,
		Secrets:      func() [][]byte { return [][]byte{[]byte(secret)} },
		ListenPacket: host.ListenPacket,
	}
	var own []netip.Addr
	for _, p := range host.Addrs() {
		own = append(own, p.Addr())
		cfg.Relay = append(cfg.Relay, relayserver.RelayAddr{Listen: p.Addr()})
	}
	cfg.Interfaces = func() ([]netip.Addr, error) { return own, nil }
	turn, err := relayserver.New(cfg)
	check(t, err)
	return turn
}

// host starts a peerconn.Host on a computer of the lab; change may be nil.
func (l *lab) host(at *natlab.Host, change func(*peerconn.Config)) *peerconn.Host {
	l.t.Helper()
	cfg := peerconn.Config{
		Identity:     newIdentity(l.t),
		Nodes:        []sallyport.NodeURL{l.node.url},
		Allow:        func(sallyport.PeerID) bool { return true },
		ListenPacket: at.ListenPacket,
		Interfaces: func() ([]holepunch.Interface, error) {
			return []holepunch.Interface{{Name: "eth0", Prefixes: at.Addrs()}}, nil
		},
		LookupHost: func(context.Context, string) ([]netip.Addr, error) {
			var addrs []netip.Addr
			for _, p := range l.node.host.Addrs() {
				addrs = append(addrs, p.Addr())
			}
			return addrs, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	h, err := peerconn.NewHost(cfg)
	check(l.t, err)
	l.t.Cleanup(func() { h.Close() })
	return h
}

// site attaches a place of the kind and starts a host in it.
func (l *lab) site(kind natlab.SiteKind, name string) *peerconn.Host {
	l.t.Helper()
	s, err := l.net.Site(kind, name)
	check(l.t, err)
	return l.host(s.Host, nil)
}

// hostWith is site with a changed Config.
func (l *lab) hostWith(kind natlab.SiteKind, name string, change func(*peerconn.Config)) *peerconn.Host {
	l.t.Helper()
	s, err := l.net.Site(kind, name)
	check(l.t, err)
	return l.host(s.Host, change)
}

func (l *lab) ready(hosts ...*peerconn.Host) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	for _, h := range hosts {
		check(l.t, h.Ready(ctx))
	}
	time.Sleep(time.Second) // virtual: what follows registration settles
}

// echo answers every stream of every link of h with what it sends.
func echo(h *peerconn.Host) {
	for {
		l, err := h.Accept(context.Background())
		if err != nil {
			return
		}
		go func() {
			for {
				s, err := l.AcceptStream(context.Background())
				if err != nil {
					return
				}
				go func() {
					io.Copy(s, s)
					s.Close()
				}()
			}
		}()
	}
}

// ask sends a byte on a fresh stream and waits for it to come back.
func ask(t *testing.T, l *peerconn.Link) error {
	t.Helper()
	s, err := l.OpenStream(t.Context())
	if err != nil {
		return err
	}
	defer s.Close()
	return askOn(s)
}

func askOn(s *peerconn.Stream) error {
	if _, err := s.Write([]byte("?")); err != nil {
		return err
	}
	_, err := io.ReadFull(s, make([]byte, 1))
	return err
}

// few is n, or a tenth of it with -short: the race detector makes a dial ten times as
// slow, and looks at the same code in each.
func few(n int) int {
	if testing.Short() {
		return max(n/10, 2)
	}
	return n
}

func newIdentity(t *testing.T) *sallyport.Identity {
	t.Helper()
	id, err := sallyport.NewIdentity()
	check(t, err)
	return id
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
