package peerconn

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/relay"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is where a test's sockets are opened: this machine's loopback, or a host
// of a natlab internet.
type site struct {
	listen     func(network, address string) (net.PacketConn, error)
	addr       netip.Addr
	interfaces func() ([]holepunch.Interface, error)
}

func localSite() site {
	return site{listen: net.ListenPacket, addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

func labSite(h *natlab.Host) site {
	return site{listen: h.ListenPacket, addr: h.Addr(), interfaces: func() ([]holepunch.Interface, error) {
		return []holepunch.Interface{{Name: "eth0", Prefixes: h.Addrs()}}, nil
	}}
}

// nodeAt starts a node, with a relay on request, as `sally serve` wires it.
func nodeAt(t testing.TB, at site, withRelay bool) sallyport.NodeURL {
	t.Helper()
	conn, err := at.listen("udp", netip.AddrPortFrom(at.addr, 0).String())
	check(t, err)
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	id := identity(t)
	cfg := server.Config{Identity: id, Conns: []net.PacketConn{conn}, Mint: relay.MintCredential}
	secret := []byte("of the relay only")
	if withRelay {
		cfg.Relays = []server.StaticRelay{{Name: "relay", ID: id.PeerID(), Addrs: []netip.AddrPort{own}, Secret: func() []byte { return secret }}}
	}
	srv, err := server.New(cfg)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Run(ctx)
	}()
	var turn *relayserver.Server
	if withRelay {
		turn, err = relayserver.New(relayserver.Config{
			Conns:        []net.PacketConn{srv.TURN(0)},
			Relay:        []relayserver.RelayAddr{{Listen: at.addr}},
			Secrets:      func() [][]byte { return [][]byte{secret} },
			AllowPeers:   []netip.Prefix{netip.PrefixFrom(at.addr, 32)},
			Interfaces:   func() ([]netip.Addr, error) { return nil, nil },
			ListenPacket: at.listen,
		})
		check(t, err)
	}
	t.Cleanup(func() {
		cancel()
		if turn != nil {
			turn.Close()
		}
		srv.Close()
		<-ended
		conn.Close()
	})
	return sallyport.NodeURL{ID: id.PeerID(), Host: own.Addr().String(), Port: own.Port()}
}

// hostAt starts a host that anybody may call; change may be nil.
func hostAt(t testing.TB, at site, node sallyport.NodeURL, change func(*Config)) *Host {
	t.Helper()
	cfg := Config{
		Identity:     identity(t),
		Nodes:        []sallyport.NodeURL{node},
		Allow:        func(sallyport.PeerID) bool { return true },
		Listen:       netip.AddrPortFrom(at.addr, 0),
		ListenPacket: at.listen,
		Interfaces:   at.interfaces,
	}
	if change != nil {
		change(&cfg)
	}
	h, err := NewHost(cfg)
	check(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// localPair is two hosts on loopback that are ready to call each other.
func localPair(t testing.TB) (a, b *Host) {
	t.Helper()
	node := nodeAt(t, localSite(), false)
	a, b = hostAt(t, localSite(), node, nil), hostAt(t, localSite(), node, nil)
	ready(t, a, b)
	return a, b
}

func ready(t testing.TB, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		check(t, h.Ready(patience(t)))
	}
}

// linked dials from a to b and returns both ends, each with a real path.
func linked(t testing.TB, a, b *Host) (from, to *Link) {
	t.Helper()
	from, err := a.Dial(patience(t), b.Ticket())
	check(t, err)
	to, err = b.Accept(patience(t))
	check(t, err)
	check(t, from.WaitPath(patience(t)))
	check(t, to.WaitPath(patience(t)))
	return from, to
}

// patience bounds what would hang if it were broken.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
