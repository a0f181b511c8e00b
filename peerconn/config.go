package peerconn

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
)

// Policy says which paths a host may use.
type Policy uint8

const (
	// PolicyAll uses whatever works, the most direct first.
	PolicyAll Policy = iota
	// PolicyRelayOnly never shows the peer an address of this host and never
	// sends to it except through a relay of this host's own.
	PolicyRelayOnly
	// PolicyDirectOnly never uses a relay: no path is better than a relayed one.
	PolicyDirectOnly
)

// Config says who a host is and how it may be reached. The zero value of each
// field is a useful default; only Identity must be set.
type Config struct {
	// Identity is the host's key.
	Identity *sallyport.Identity
	// Nodes are the host's home nodes: it registers there when it may be called,
	// and calls through them. Without any, only peers whose ticket names nodes
	// can be dialed.
	Nodes []sallyport.NodeURL
	// Allow decides who may call, before anything is answered; it may be asked more
	// than once for one call. Nil: nobody, the host only dials.
	Allow func(sallyport.PeerID) bool
	// Policy says which paths may be used.
	Policy Policy
	// Listen is where the one UDP socket is bound. Zero: every address of both
	// families, on a free port.
	Listen netip.AddrPort
	// DialTimeout bounds Dial where its context does not, and how long a link may
	// live without a real path. Zero: 15 s.
	DialTimeout time.Duration
	// IdleTimeout is how long a link survives without hearing from the peer. Zero:
	// 30 s.
	IdleTimeout time.Duration
	// Logger gets what happens; nil is silent. Addresses of peers appear at debug
	// level alone.
	Logger *slog.Logger

	// ListenPacket opens the socket; nil: net.ListenPacket. A seam for tests.
	ListenPacket func(network, address string) (net.PacketConn, error)
	// Interfaces lists this machine's addresses; nil: the system's. A seam for
	// tests.
	Interfaces func() ([]holepunch.Interface, error)
	// LookupHost resolves a node's name; nil: the system's resolver. A seam for
	// tests.
	LookupHost func(ctx context.Context, host string) ([]netip.Addr, error)
}

const (
	defaultDialTimeout = 15 * time.Second
	defaultIdleTimeout = 30 * time.Second
)

func (c *Config) dialTimeout() time.Duration {
	if c.DialTimeout > 0 {
		return c.DialTimeout
	}
	return defaultDialTimeout
}

func (c *Config) idleTimeout() time.Duration {
	if c.IdleTimeout > 0 {
		return c.IdleTimeout
	}
	return defaultIdleTimeout
}

func (c *Config) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Config) listen() (net.PacketConn, error) {
	listen := c.ListenPacket
	if listen == nil {
		listen = net.ListenPacket
	}
	if c.Listen.IsValid() {
		return listen("udp", c.Listen.String())
	}
	return listen("udp", ":0") // one socket for both families where the system has both
}

func (c *Config) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if c.LookupHost != nil {
		return c.LookupHost(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
