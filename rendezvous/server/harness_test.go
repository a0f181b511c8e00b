package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// identity returns the same key for the same name.
func identity(name string) *sallyport.Identity {
	seed := make([]byte, 32)
	copy(seed, name)
	id, err := sallyport.IdentityFromSeed(seed)
	if err != nil {
		panic(err)
	}
	return id
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// world is a node and peers on an in-memory network, to be used in a synctest
// bubble; or on loopback, without one.
type world struct {
	t    *testing.T
	net  *memoryNet // nil: loopback
	node *Server
	addr netip.AddrPort
	stop func()
}

// newWorld makes a network with 20 ms of delay each way and starts a node.
func newWorld(t *testing.T, cfg Config) *world {
	w := &world{t: t, net: newMemoryNet(20 * time.Millisecond), addr: netip.MustParseAddrPort("198.51.100.1:3478")}
	w.start(cfg)
	return w
}

// start runs a node at the world's address; stop ends it.
func (w *world) start(cfg Config) {
	w.t.Helper()
	var conn net.PacketConn
	if w.net != nil {
		conn = w.net.listen(w.addr)
	} else {
		conn = listenLoopback(w.t)
		w.addr, _ = addrPort(conn.LocalAddr())
	}
	w.startOn(cfg, []net.PacketConn{conn})
}

// startOn runs a node on sockets, which it closes at the end.
func (w *world) startOn(cfg Config, conns []net.PacketConn) {
	w.t.Helper()
	if cfg.Identity == nil {
		cfg.Identity = identity("node")
	}
	if cfg.Logger == nil {
		cfg.Logger = testLogger(w.t)
	}
	cfg.Conns = conns
	node, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		node.Run(context.Background())
	}()
	w.node = node
	w.stop = func() {
		node.Close()
		<-done
		for _, conn := range conns {
			conn.Close()
		}
	}
	w.t.Cleanup(func() { w.stop() })
}

func listenLoopback(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (w *world) url() sallyport.NodeURL {
	return sallyport.NodeURL{ID: identity("node").PeerID(), Host: w.addr.Addr().String(), Port: w.addr.Port()}
}

// peer is a client on the world's network with a socket of its own.
type peer struct {
	*rendezvous.Client
	w     *world
	id    sallyport.PeerID
	calls chan *rendezvous.Call
	regs  chan rendezvous.Registration
	lists chan rendezvous.VolunteerStatus
	ended chan error
	conn  *memoryConn // nil on loopback
	quit  func()
}

// peer starts a callable client that registers under the key of that name.
func (w *world) peer(name string, change ...func(*rendezvous.Config)) *peer {
	w.t.Helper()
	p := &peer{
		w: w, id: identity(name).PeerID(),
		calls: make(chan *rendezvous.Call, 256),
		regs:  make(chan rendezvous.Registration, 256),
		lists: make(chan rendezvous.VolunteerStatus, 256),
		ended: make(chan error, 1),
	}
	cfg := rendezvous.Config{
		Identity:     identity(name),
		Node:         w.url(),
		OnCall:       func(c *rendezvous.Call) { p.calls <- c },
		OnRegistered: func(r rendezvous.Registration) { p.regs <- r },
		OnVolunteer:  func(s rendezvous.VolunteerStatus) { p.lists <- s },
		Logger:       testLogger(w.t).With("client", name),
	}
	closeSocket := func() {}
	if w.net != nil {
		p.conn = w.net.listen(netip.AddrPort{})
		transport := &quic.Transport{Conn: p.conn, ConnectionIDGenerator: connIDs{}}
		cfg.DialContext = dialFrom(transport)
		closeSocket = func() { transport.Close(); p.conn.Close() }
	}
	for _, f := range change {
		f(&cfg)
	}
	client, err := rendezvous.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Client = client
	go func() { p.ended <- client.Run(context.Background()) }()
	p.quit = sync.OnceFunc(func() { client.Close(); closeSocket() })
	w.t.Cleanup(p.quit)
	return p
}

func dialFrom(transport *quic.Transport) func(context.Context, string, *tls.Config, *quic.Config) (*quic.Conn, error) {
	return func(ctx context.Context, addr string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return transport.Dial(ctx, net.UDPAddrFromAddrPort(to), tlsConf, conf)
	}
}

// callsOnly makes a client that is not callable.
func callsOnly(cfg *rendezvous.Config) { cfg.OnCall = nil }

func (p *peer) ctx() context.Context {
	ctx, cancel := context.WithTimeout(p.w.t.Context(), time.Minute)
	p.w.t.Cleanup(cancel)
	return ctx
}

func (p *peer) wantReady(why string) rendezvous.Registration {
	p.w.t.Helper()
	reg, err := p.Ready(p.ctx())
	if err != nil {
		p.w.t.Fatalf("%s: %v", why, err)
	}
	return reg
}

func (p *peer) call(to *peer, offer string) *rendezvous.Call {
	p.w.t.Helper()
	call, err := p.Call(p.ctx(), to.id, []byte(offer))
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.w.t.Cleanup(func() { call.Close() })
	return call
}

func (p *peer) wantCall(offer, why string) *rendezvous.Call {
	p.w.t.Helper()
	select {
	case call := <-p.calls:
		if string(call.Offer()) != offer {
			p.w.t.Fatalf("%s: offer %q, want %q", why, call.Offer(), offer)
		}
		p.w.t.Cleanup(func() { call.Close() })
		return call
	case <-p.ctx().Done():
		p.w.t.Fatalf("%s: no call came", why)
		return nil
	}
}

func (w *world) send(call *rendezvous.Call, msg string) {
	w.t.Helper()
	if err := call.Send([]byte(msg)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantMessage(call *rendezvous.Call, want, why string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if got, err := call.Receive(ctx); err != nil || string(got) != want {
		w.t.Fatalf("%s: got %q, %v, want %q", why, got, err, want)
	}
}

func (w *world) wantEnd(call *rendezvous.Call, want error, why string) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	got, err := call.Receive(ctx)
	if !errors.Is(err, want) {
		w.t.Fatalf("%s: got %q, %v, want %v", why, got, err, want)
	}
	return err
}
