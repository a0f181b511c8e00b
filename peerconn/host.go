package peerconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/internal/packet"
	"github.com/sallyport-net/sallyport/rendezvous"
)

const (
	alpn = "sally-link/1"

	maxUnaccepted = 16   // links that wait for Accept
	maxIncoming   = 64   // calls being answered at a time
	maxRoutes     = 4096 // of all links and calls
	maxFromPeer   = 32   // of those one peer made
	maxReplays    = 4096 // offers remembered, against replay
)

// Host is one program's presence: an identity on one UDP socket, registered at
// its home nodes, with links to any number of peers. It is safe for concurrent
// use.
type Host struct {
	cfg   Config
	log   *slog.Logger
	id    *sallyport.Identity
	sock  *socket
	quic  *quic.Transport
	links *quic.EarlyListener
	stun  *stunWatch
	nodes *nodes
	relay *relays

	ctx    context.Context // ends with Close: the lifetime of every goroutine below
	shut   sync.Once
	cancel context.CancelFunc
	tasks  tasks
	queue  chan *Link
	answer chan struct{} // a slot for each call being answered

	mu      sync.Mutex // guards what follows
	routes  map[netip.Addr]*route
	tags    map[holepunch.Tag]*route
	dials   map[sallyport.PeerID][]*dial
	replays *holepunch.ReplayCache
	closed  bool
}

// NewHost binds the socket and begins to register at the home nodes in the
// background; Ready waits for that. It fails where the socket cannot be bound or
// the Config is incomplete.
func NewHost(cfg Config) (*Host, error) {
	if cfg.Identity == nil {
		return nil, errors.New("peerconn: Config.Identity is not set")
	}
	pc, err := cfg.listen()
	if err != nil {
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{
		cfg:     cfg,
		log:     cfg.logger(),
		id:      cfg.Identity,
		ctx:     ctx,
		cancel:  cancel,
		queue:   make(chan *Link, maxUnaccepted),
		answer:  make(chan struct{}, maxIncoming),
		routes:  make(map[netip.Addr]*route),
		tags:    make(map[holepunch.Tag]*route),
		dials:   make(map[sallyport.PeerID][]*dial),
		replays: holepunch.NewReplayCache(maxReplays),
	}
	h.openSocket(pc)
	if h.links, err = h.quic.ListenEarly(h.acceptTLS(), h.quicConfig()); err != nil {
		cancel()
		pc.Close()
		return nil, fmt.Errorf("starting QUIC on the socket: %w", err)
	}
	h.stun = newSTUNWatch(h)
	h.relay = newRelays(h)
	h.nodes = newNodes(h)
	h.tasks.Go(h.acceptLinks)
	h.nodes.startHome()
	return h, nil
}

func (h *Host) openSocket(pc net.PacketConn) {
	h.sock = newSocket(pc, h.log)
	h.sock.onCheck = h.onCheck
	h.sock.onSTUN = h.onSTUN
	h.sock.routeOf = h.routeOf
	key := quic.StatelessResetKey(h.id.DeriveKey("link stateless reset", 32))
	h.quic = &quic.Transport{
		Conn:                             h.sock.transportConn(),
		ConnectionIDGenerator:            connectionIDs{},
		StatelessResetKey:                &key,
		DisableVersionNegotiationPackets: true,
	}
}

// connectionIDs makes IDs that packet.Classify never takes for channel data.
type connectionIDs struct{}

func (connectionIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	id := packet.NewConnectionID()
	return quic.ConnectionIDFromBytes(id[:]), nil
}

func (connectionIDs) ConnectionIDLen() int { return packet.ConnectionIDSize }

func (h *Host) quicConfig() *quic.Config {
	idle := h.cfg.idleTimeout()
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1},
		HandshakeIdleTimeout: h.cfg.dialTimeout(),
		MaxIdleTimeout:       idle,
		KeepAlivePeriod:      idle / 3,
		InitialPacketSize:    initialPacket,
		EnableDatagrams:      true,
		MaxIncomingStreams:   1024,
	}
}

// initialPacket keeps the first flight of both sides within one datagram each
// and within an IPv6 path of the smallest MTU.
const initialPacket = 1200

// acceptTLS pins each incoming handshake to the peer whose offer made its route.
func (h *Host) acceptTLS() *tls.Config {
	base := h.linkTLS(sallyport.PeerID{})
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		virtual, ok := virtualOf(hello.Conn.RemoteAddr())
		if !ok {
			return nil, errors.New("peerconn: a handshake without a call")
		}
		r := h.routeOf(virtual)
		if r == nil {
			return nil, errors.New("peerconn: a handshake on a route that is gone")
		}
		return h.linkTLS(r.peer), nil
	}
	return base
}

// linkTLS is the identity's configuration with one key share only, so that a
// first flight is one datagram.
func (h *Host) linkTLS(peer sallyport.PeerID) *tls.Config {
	conf := h.id.ClientTLS(peer, alpn)
	conf.CurvePreferences = []tls.CurveID{tls.X25519}
	return conf
}

// PeerID returns the host's public identity.
func (h *Host) PeerID() sallyport.PeerID { return h.id.PeerID() }

// LocalAddr returns the address of the one socket.
func (h *Host) LocalAddr() netip.AddrPort {
	return h.sock.pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Ticket returns what others need to dial this host: its ID and home nodes.
func (h *Host) Ticket() sallyport.Ticket {
	return sallyport.Ticket{Peer: h.PeerID(), Nodes: h.cfg.Nodes}
}

// Ready waits until the host is registered at one of its home nodes at least.
// The error names every node and why it could not be reached.
func (h *Host) Ready(ctx context.Context) error { return h.nodes.ready(ctx) }

// Accept returns the next link that a peer dialed. Links wait for it in a short
// queue; more than 16 are refused. After Close it returns net.ErrClosed.
func (h *Host) Accept(ctx context.Context) (*Link, error) {
	if h.isClosed() {
		return nil, net.ErrClosed // and none of the dead links that wait
	}
	select {
	case l := <-h.queue:
		return l, nil
	default:
	}
	select {
	case l := <-h.queue:
		return l, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// closeFlush is for the last words of links that go through the node to leave,
// before the connection to the node ends and takes with it what is queued.
const closeFlush = 20 * time.Millisecond

// Close ends all links, tells the nodes and the relays, and releases the socket.
func (h *Host) Close() (err error) {
	h.shut.Do(func() { err = h.close() })
	return err
}

func (h *Host) close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	signalling := false
	for _, r := range h.allRoutes() {
		signalling = r.closeLink() && r.target.Load() == nil || signalling
	}
	if signalling {
		waitFor(h.ctx, nil, closeFlush)
	}
	h.relay.close()
	h.nodes.close()
	h.cancel()
	h.links.Close()
	err := h.quic.Close()
	h.tasks.Wait()
	return errors.Join(err, h.sock.pc.Close())
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *Host) allRoutes() []*route {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*route
	for _, r := range h.routes {
		all = append(all, r)
	}
	return all
}

// openRoute registers a route and starts it. It ends with the returned func.
func (h *Host) openRoute(peer sallyport.PeerID, cfg holepunch.SessionConfig) (*route, context.CancelFunc, error) {
	cfg.LocalPrefixes = h.localPrefixes()
	cfg.Loopback = h.stun.onThisMachine()
	cfg.OpenerTTL = h.sock.openerTTL()
	if h.cfg.Policy == PolicyRelayOnly {
		cfg.Families = holepunch.NoFamily
	}
	ctx, cancel := context.WithCancel(h.ctx)
	r := newRoute(ctx, h.sock, h.log, peer, cfg)
	r.noRelay = h.cfg.Policy == PolicyDirectOnly
	virtual, _ := virtualOf(r.virtual)
	tag := r.tag()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		cancel()
		return nil, nil, net.ErrClosed
	}
	if len(h.routes) >= maxRoutes || !cfg.Caller && h.routesFrom(peer) >= maxFromPeer {
		cancel()
		return nil, nil, errTooMany
	}
	h.routes[virtual] = r
	h.tags[tag] = r
	h.tasks.Go(func() {
		r.run()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.routes, virtual)
		delete(h.tags, tag)
	})
	return r, cancel, nil
}

// routesFrom counts the routes that calls of a peer made. The caller holds the
// mutex.
func (h *Host) routesFrom(peer sallyport.PeerID) int {
	n := 0
	for _, r := range h.routes {
		if r.peer == peer && !r.calling {
			n++
		}
	}
	return n
}

func (h *Host) routeOf(virtual netip.Addr) *route {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.routes[virtual]
}

func (h *Host) onCheck(from holepunch.Path, b []byte) {
	tag, ok := holepunch.CheckTag(b)
	if !ok {
		return
	}
	h.mu.Lock()
	r := h.tags[tag]
	h.mu.Unlock()
	if r != nil {
		r.check(from, b)
	}
}

func (h *Host) onSTUN(from netip.AddrPort, b []byte) bool {
	return h.relay.take(b, from) || h.stun.inbound(b, from)
}

// acceptLinks takes connections as soon as they begin, so that Close can tell
// the other side of one whose handshake is under way.
func (h *Host) acceptLinks() {
	for {
		conn, err := h.links.Accept(h.ctx)
		if err != nil {
			return
		}
		virtual, _ := virtualOf(conn.RemoteAddr())
		r := h.routeOf(virtual)
		if r == nil || !r.claim(conn) {
			conn.CloseWithError(codeNoRoute, "no call is waiting for this")
			continue
		}
		h.tasks.Go(func() { h.completeLink(r, conn) }) // ends with the handshake or the connection
	}
}

// completeLink hands a connection whose handshake completes to whoever waits for
// it.
func (h *Host) completeLink(r *route, conn *quic.Conn) {
	select {
	case <-conn.HandshakeComplete():
		l := newLink(h, r, conn, time.Since(r.started))
		h.tasks.Go(l.awaitRepair) // ends with the link
		h.accepted(r, l)
	case <-conn.Context().Done():
	}
}

// accepted gives an incoming link to a dial of ours that crossed with the
// peer's, or to Accept.
func (h *Host) accepted(r *route, l *Link) {
	for _, d := range h.pending(r.peer) {
		if d.yield(l) {
			return
		}
	}
	if h.cfg.Allow == nil || !h.cfg.Allow(r.peer) { // taken only because it crossed with a dial, which is over
		l.CloseWithReason(reasonNotAllowed)
		return
	}
	select {
	case h.queue <- l:
	default:
		l.CloseWithReason("too many links wait to be accepted")
	}
}

func (h *Host) pending(peer sallyport.PeerID) []*dial {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*dial(nil), h.dials[peer]...)
}

// homeCall is what a home node's client does with a call.
func (h *Host) homeCall(client *rendezvous.Client, call *rendezvous.Call) {
	select {
	case h.answer <- struct{}{}:
		defer func() { <-h.answer }()
		h.takeCall(client, call)
	default:
		call.Refuse("busy")
	}
}
