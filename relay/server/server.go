// Package server is a TURN server (RFC 8656) over UDP for IPv4 and IPv6, safe to expose with its
// defaults: no user without a time-limited credential, no relaying to private or special-purpose
// networks or to the machine itself, quotas on everything, no amplification worth having.
//
// [New] starts it on sockets it is given and [Server.Close] ends it. Credentials are those of
// package relay (coturn's REST form): "unix:user" and an HMAC under one of the secrets. They are
// checked against the clock when an allocation is made; an allocation that lives is kept up with
// the same credential for a day. Quotas count the user, the source prefix and the total, and are
// given back on every end of an allocation. Peers may be reached at their own relayed addresses
// here. pion/turn does the control protocol; in front of it stands a filter that drops what is
// malformed, limits what is not authenticated and relays ChannelData itself.
//
// There is no TCP, TLS or DTLS towards clients, no TCP allocation (RFC 6062), no DONT-FRAGMENT
// and no mobility; a reserved port (EVEN-PORT) is not held open. Payloads are limited to what
// fits a datagram of 1,600 bytes.
package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/turn/v5"
)

// Config of a [Server]. Zero values are the defaults given; negative numbers switch a limit off.
type Config struct {
	// Conns are the sockets that clients talk to. The server owns them: Close closes them. Required.
	Conns []net.PacketConn
	// Relay says where relayed sockets are opened, at most one entry per address family; the first
	// of a family counts. A family without one is refused with 440. Required.
	Relay []RelayAddr
	// Secrets returns the secrets under which credentials are accepted now: the current one and,
	// for rotation, its predecessor. While it returns none, everything is refused. Required: there
	// is no server without authentication.
	Secrets func() [][]byte
	// Realm of the credentials; at most 12 bytes, so that answers stay small. Default "sally".
	Realm string
	// MaxTTL is how far ahead a credential may expire. Default 25 hours.
	MaxTTL time.Duration
	// Grace is for how long after its credential expired a living allocation can be kept up, at
	// the most. Default 24 hours; negative: not at all.
	Grace time.Duration
	// NodeTime is the clock that credentials are checked against, for a machine whose own clock is
	// off. Nil: time.Now.
	NodeTime func() time.Time
	// AllowPeers opens networks that are denied by default, whatever they are. Our listening
	// addresses stay closed.
	AllowPeers []netip.Prefix
	// OwnAddrs are further addresses of ours that nothing is ever relayed to: an admin listener, say.
	OwnAddrs []netip.AddrPort
	// Quotas bound living allocations, Rates what happens in a second.
	Quotas Quotas
	Rates  Rates
	// ListenPacket opens relayed sockets ("udp4" or "udp6", "IP:port"). Nil: net.ListenPacket.
	ListenPacket func(network, address string) (net.PacketConn, error)
	// Interfaces lists the machine's own addresses, which nobody is relayed to. Nil: the system's.
	Interfaces func() ([]netip.Addr, error)
	// Logger hears of start and end, and at debug level of single packets. Nil: silent.
	Logger *slog.Logger
}

// What [New] refuses; each comes wrapped with the detail.
var (
	ErrNoSecret = errors.New("relay server: no credentials' secret: a relay open to anybody is not started")
	ErrConfig   = errors.New("relay server: bad configuration")
)

const (
	defaultRealm   = "sally"
	maxRealm       = 12
	defaultMaxTTL  = 25 * time.Hour
	defaultGrace   = 24 * time.Hour
	defaultMinPort = 49152
	defaultMaxPort = 65535
)

// Server is a running TURN server. Its methods may be called concurrently.
type Server struct {
	cfg       Config
	relay     []RelayAddr
	verifier  verifier
	policy    *policy
	ledger    ledger
	limiter   *limiter
	pacer     *pacer
	stats     counters
	listeners []*listener
	pion      []*turn.Server

	mu       sync.RWMutex                      // guards relays
	relays   map[netip.AddrPort]netip.AddrPort // live relayed addresses: advertised → local
	back     map[netip.AddrPort]netip.AddrPort // local → advertised, where they differ
	open     sync.WaitGroup                    // allocations not closed yet
	shutdown sync.Once
}

// New starts a server. It returns [ErrNoSecret] or [ErrConfig] for what cannot be served.
func New(cfg Config) (*Server, error) {
	s := &Server{
		relays: make(map[netip.AddrPort]netip.AddrPort),
		back:   make(map[netip.AddrPort]netip.AddrPort),
	}
	if err := s.configure(cfg); err != nil {
		return nil, err
	}
	for _, conn := range s.cfg.Conns {
		l := newListener(s, conn)
		s.listeners = append(s.listeners, l)
		p, err := turn.NewServer(s.pionConfig(l))
		if err != nil {
			close(l.ended)
			_ = s.Close()
			return nil, fmt.Errorf("starting pion/turn: %w", err)
		}
		s.pion = append(s.pion, p)
	}
	if log := s.cfg.Logger; log != nil {
		log.Info("relay serves", "sockets", len(s.listeners))
	}
	return s, nil
}

// configure fills in the defaults; the caller's Config is not changed.
func (s *Server) configure(cfg Config) error {
	if cfg.Secrets == nil {
		return ErrNoSecret
	}
	if len(cfg.Conns) == 0 || len(cfg.Relay) == 0 {
		return fmt.Errorf("%w: no socket or no relayed address", ErrConfig)
	}
	if cfg.Realm == "" {
		cfg.Realm = defaultRealm
	}
	if len(cfg.Realm) > maxRealm {
		return fmt.Errorf("%w: realm longer than %d bytes", ErrConfig, maxRealm)
	}
	if cfg.NodeTime == nil {
		cfg.NodeTime = time.Now
	}
	if cfg.ListenPacket == nil {
		cfg.ListenPacket = net.ListenPacket
	}
	if cfg.Interfaces == nil {
		cfg.Interfaces = systemAddrs
	}
	s.cfg = cfg
	s.verifier = verifier{
		secrets: cfg.Secrets, realm: cfg.Realm, now: cfg.NodeTime,
		maxTTL: durationOr(cfg.MaxTTL, defaultMaxTTL),
		grace:  max(0, durationOr(cfg.Grace, defaultGrace)),
	}
	s.ledger = ledger{
		limits: cfg.Quotas.withDefaults(), byUser: make(map[string]int), byPrefix: make(map[netip.Prefix]int),
	}
	s.limiter, s.pacer = newLimiter(cfg.Rates), newPacer(cfg.Rates.Relay)
	for _, at := range cfg.Relay {
		at, err := at.withDefaults()
		if err != nil {
			return err
		}
		s.relay = append(s.relay, at)
	}
	s.policy = s.newPolicy()
	return nil
}

func durationOr(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

func (at RelayAddr) withDefaults() (RelayAddr, error) {
	at.Listen, at.Advertise = at.Listen.Unmap(), at.Advertise.Unmap()
	if !at.Advertise.IsValid() {
		at.Advertise = at.Listen
	}
	if at.MinPort == 0 && at.MaxPort == 0 {
		at.MinPort, at.MaxPort = defaultMinPort, defaultMaxPort
	}
	switch {
	case !at.Listen.IsValid() || at.Advertise.IsUnspecified() || at.Listen.Is4() != at.Advertise.Is4():
		return at, fmt.Errorf("%w: relayed address %v advertised as %v", ErrConfig, at.Listen, at.Advertise)
	case at.MinPort == 0 || at.MinPort > at.MaxPort:
		return at, fmt.Errorf("%w: relayed ports %d to %d", ErrConfig, at.MinPort, at.MaxPort)
	}
	return at, nil
}

// newPolicy collects what is ours.
func (s *Server) newPolicy() *policy {
	p := &policy{
		allow: s.cfg.AllowPeers, interfaces: s.cfg.Interfaces,
		own: make(map[netip.AddrPort]bool), ownPorts: make(map[uint16]bool), advertised: make(map[netip.Addr]bool),
	}
	for _, at := range s.relay {
		p.advertised[at.Advertise] = true
	}
	for _, a := range s.cfg.OwnAddrs {
		p.own[unmap(a)] = true
	}
	for _, conn := range s.cfg.Conns {
		local := addrPortOf(conn.LocalAddr())
		p.own[local] = true
		p.ownPorts[local.Port()] = true
		for advertised := range p.advertised {
			p.own[netip.AddrPortFrom(advertised, local.Port())] = true
		}
	}
	return p
}

// pionConfig is a pion server for one listener: one each, so that its callbacks know the request
// they are about.
func (s *Server) pionConfig(l *listener) turn.ServerConfig {
	return turn.ServerConfig{
		Realm:               s.cfg.Realm,
		AuthHandler:         l.authenticate,
		QuotaHandler:        l.admit,
		StrictAddressFamily: true, // RFC 8656 §7.2: without the attribute, IPv4
		LoggerFactory:       pionLog{s.cfg.Logger},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn: l, RelayAddressGenerator: generator{l}, PermissionHandler: l.permit,
		}},
		EventHandler: turn.EventHandler{
			OnAllocationError: func(_, _ net.Addr, _, _ string) { l.silent() },
			OnPermissionCreated: func(src, _ net.Addr, _, _, _ string, relayed net.Addr, peer net.IP) {
				l.permissionEvent(src, relayed, peer, true)
			},
			OnPermissionDeleted: func(src, _ net.Addr, _, _, _ string, relayed net.Addr, peer net.IP) {
				l.permissionEvent(src, relayed, peer, false)
			},
			OnChannelCreated: func(src, _ net.Addr, _, _, _ string, relayed, peer net.Addr, number uint16) {
				l.channelEvent(src, relayed, peer, number, true)
			},
			OnChannelDeleted: func(src, _ net.Addr, _, _, _ string, relayed, peer net.Addr, number uint16) {
				l.channelEvent(src, relayed, peer, number, false)
			},
		},
	}
}

// opened registers a new allocation.
func (s *Server) opened(a *allocation) {
	s.stats.allocated.Add(1)
	s.open.Add(1)
	a.listener.add(a)
	local := a.relayed
	if bound := addrPortOf(a.sock.LocalAddr()); bound.IsValid() && !bound.Addr().IsUnspecified() {
		local = bound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relays[a.relayed] = local
	if local != a.relayed {
		s.back[local] = a.relayed
	}
}

// closed undoes opened. The address is forgotten before the socket is closed, since from then on
// another allocation may get it.
func (s *Server) closed(a *allocation) {
	a.listener.remove(a)
	s.mu.Lock()
	delete(s.back, s.relays[a.relayed])
	delete(s.relays, a.relayed)
	s.mu.Unlock()
	_ = a.sock.Close() // closed either way
	a.slot.release()
	s.open.Done()
}

// localOf returns where to send for peer: a relayed address of ours, which may be advertised
// under another IP, is reached without leaving the machine.
func (s *Server) localOf(peer netip.AddrPort) (to netip.AddrPort, relayed bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if to, ok := s.relays[peer]; ok {
		return to, true
	}
	return peer, false
}

// advertisedOf is the reverse for the source of a packet.
func (s *Server) advertisedOf(from netip.AddrPort) netip.AddrPort {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if a, ok := s.back[from]; ok {
		return a
	}
	return from
}

// Close ends all allocations, closes Conns and waits for both. It is idempotent.
func (s *Server) Close() error {
	s.shutdown.Do(func() {
		for _, l := range s.listeners {
			_ = l.Close()
		}
		for _, l := range s.listeners {
			<-l.ended
		}
	})
	s.open.Wait()
	return nil
}
