package relay_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/relay"
	"github.com/sallyport-net/sallyport/relay/server"
)

var secret = []byte("a secret of the tests")

// waitTime bounds waits for what must come; nothing is measured by it.
const waitTime = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTime)
	t.Cleanup(cancel)
	return ctx
}

// harness is a server of ours on loopback and what a client needs for it.
type harness struct {
	*server.Server
	t    testing.TB
	addr netip.AddrPort
}

func listen(t testing.TB, ip string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Skipf("skipped: no socket on %s here: %v", ip, err)
	}
	return c
}

func addrOf(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// startServer runs a server on ip that relays to loopback; change adapts its Config.
func startServer(t testing.TB, ip string, change func(*server.Config)) *harness {
	t.Helper()
	conn := listen(t, ip)
	cfg := server.Config{
		Conns:      []net.PacketConn{conn},
		Relay:      []server.RelayAddr{{Listen: netip.MustParseAddr(ip)}},
		Secrets:    func() [][]byte { return [][]byte{secret} },
		AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatalf("server: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &harness{Server: s, t: t, addr: addrOf(conn)}
}

func (h *harness) config(user string) relay.Config {
	username, password := relay.MintCredential(secret, user, time.Now().Add(10*time.Minute))
	return relay.Config{Server: h.addr, Username: username, Password: password}
}

func (h *harness) allocate(cfg relay.Config) *relay.Allocation {
	h.t.Helper()
	a, err := relay.Allocate(testContext(h.t), cfg)
	if err != nil {
		h.t.Fatalf("Allocate: %v", err)
	}
	h.t.Cleanup(func() { _ = a.Close() })
	return a
}

type message struct {
	text string
	from netip.AddrPort
}

// inbox is a Config.Receive that queues.
type inbox chan message

func (in inbox) receive(b []byte, from netip.AddrPort) { in <- message{string(b), from} }

func (in inbox) want(t *testing.T, text string, from netip.AddrPort, why string) {
	t.Helper()
	select {
	case m := <-in:
		if m.text != text || m.from != from {
			t.Fatalf("%s: got %q from %v, want %q from %v", why, m.text, m.from, text, from)
		}
	case <-time.After(waitTime):
		t.Fatalf("%s: nothing came", why)
	}
}

func wantRead(t *testing.T, c net.PacketConn, text string, from netip.AddrPort, why string) {
	t.Helper()
	b := make([]byte, 2000)
	_ = c.SetReadDeadline(time.Now().Add(waitTime))
	n, addr, err := c.ReadFrom(b)
	if err != nil {
		t.Fatalf("%s: %v", why, err)
	}
	if got := addr.(*net.UDPAddr).AddrPort(); string(b[:n]) != text || got != from {
		t.Fatalf("%s: got %q from %v, want %q from %v", why, b[:n], got, text, from)
	}
}

// TestRelay carries packets both ways, before, while and after the channel is bound.
func TestRelay(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			h := startServer(t, ip, nil)
			peer := listen(t, ip)
			defer peer.Close()
			in := make(inbox, 16)
			cfg := h.config("alice")
			cfg.Receive = in.receive
			a := h.allocate(cfg)
			if a.Mapped().Addr() != netip.MustParseAddr(ip) || a.Relayed().Addr() != netip.MustParseAddr(ip) {
				t.Fatalf("mapped %v, relayed %v", a.Mapped(), a.Relayed())
			}
			if _, err := a.WriteTo([]byte("first"), addrOf(peer)); err != nil {
				t.Fatalf("WriteTo: %v", err)
			}
			wantRead(t, peer, "first", a.Relayed(), "a packet that was not waited for")
			peer.WriteTo([]byte("answer"), net.UDPAddrFromAddrPort(a.Relayed()))
			in.want(t, "answer", addrOf(peer), "the peer's answer")
			if err := a.Bind(testContext(t), addrOf(peer)); err != nil {
				t.Fatalf("Bind: %v", err)
			}
			a.WriteTo([]byte("second"), addrOf(peer))
			wantRead(t, peer, "second", a.Relayed(), "over the channel")
			peer.WriteTo([]byte("back"), net.UDPAddrFromAddrPort(a.Relayed()))
			in.want(t, "back", addrOf(peer), "back over the channel")
			a.Close()
			if got := h.Stats().Allocations; got != 0 {
				t.Errorf("after Close %d allocations", got)
			}
			if !errors.Is(a.Err(), net.ErrClosed) {
				t.Errorf("Err after Close: %v", a.Err())
			}
		})
	}
}

func TestProbe(t *testing.T) {
	h := startServer(t, "127.0.0.1", nil)
	if err := relay.Probe(testContext(t), h.config("node")); err != nil {
		t.Fatalf("Probe: %v", err)
	}
	if got := h.Stats().Allocations; got != 0 {
		t.Errorf("the probe left %d allocations", got)
	}
	cfg := h.config("node")
	cfg.Password = strings.Repeat("x", 28)
	if err := relay.Probe(testContext(t), cfg); !errors.Is(err, relay.ErrUnauthorized) {
		t.Errorf("Probe with a wrong password: %v", err)
	}
}
