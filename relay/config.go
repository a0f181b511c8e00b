package relay

import (
	"log/slog"
	"net"
	"net/netip"
)

// Config says how to reach a TURN server and whom to give what comes through it.
type Config struct {
	// Server is the TURN server's UDP address. Required.
	Server netip.AddrPort
	// Username and Password are the long-term credential (RFC 8489 §9.2), usually time-limited
	// ones from a rendezvous node. They are needed to allocate and stay in use for refreshes;
	// [Allocation.SetCredential] replaces them.
	Username, Password string
	// Family is 4 or 6, the family of the relayed address; zero: that of Server.
	Family int
	// Send writes one datagram to the server through the caller's socket, which then feeds what
	// comes from Server to [Allocation.Inbound] from the moment [Allocate] is called (see Attach).
	// It must not keep b and should not block. Nil: the allocation opens and reads its own socket.
	Send func(b []byte, to netip.AddrPort) error
	// Attach is called once, before the first packet is sent, with the function that takes the
	// server's packets. A caller with a shared socket needs it, because the answers to Allocate
	// arrive before Allocate returns. Ignored when Send is nil.
	Attach func(inbound func(b []byte, from netip.AddrPort) bool)
	// Receive gets each payload that arrived at the relayed address, in order, on the goroutine
	// that called Inbound. b is valid during the call. It must not call Close. Nil: dropped.
	Receive func(b []byte, from netip.AddrPort)
	// ListenPacket opens the own socket when Send is nil. Nil: net.ListenPacket.
	ListenPacket func(network, address string) (net.PacketConn, error)
	// Logger hears of refused refreshes and lost allocations. Nil: silent.
	Logger *slog.Logger
}

func (c *Config) family() byte {
	if c.Family == 6 || c.Family == 0 && c.Server.Addr().Unmap().Is6() {
		return familyIPv6
	}
	return familyIPv4
}
