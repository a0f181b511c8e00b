// Package behavior finds out what the NAT and firewall in front of this machine
// do to UDP, in the words of RFC 4787, by the tests of RFC 5780.
//
//	report, err := behavior.Measure(ctx, behavior.Config{Servers: servers})
//	for _, f := range report.Findings() {
//		fmt.Println(f.Text, f.Fix)
//	}
//
// A server that has two addresses and two ports (RFC 5780 section 4: one that
// sends OTHER-ADDRESS) lets [Measure] tell every mapping and filtering
// behaviour. From two servers without that, mapping can be told endpoint-
// independent or not; from one, nothing but the mapped address.
//
// What it guarantees: one request per server and test, retransmitted at most
// three times, so that a measurement sends some dozens of small packets; it ends
// within [MaxTime]; an answer counts only with the transaction ID of a request.
// What was not measured is [Unknown], never guessed.
//
// What it does not do: it does not tell NAT layers apart, and it measures neither
// lifetimes nor hairpinning. RFC 5780 section 1: the result describes the NAT "at
// a given moment in time"; a NAT may behave otherwise under load.
package behavior

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Behavior is how a NAT chooses an external address and port (mapping), or whom
// it lets in (filtering): RFC 4787 sections 4.1 and 5.
type Behavior uint8

const (
	Unknown                 Behavior = iota // not measured
	None                                    // there is no NAT, or no filter
	EndpointIndependent                     // one for all remote endpoints
	AddressDependent                        // one for each remote IP address
	AddressAndPortDependent                 // one for each remote IP address and port
)

// String returns the words of RFC 4787, or "none" or "unknown".
func (b Behavior) String() string {
	switch b {
	case None:
		return "none"
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressDependent:
		return "address-dependent"
	case AddressAndPortDependent:
		return "address-and-port-dependent"
	}
	return "unknown"
}

// MarshalText returns [Behavior.String].
func (b Behavior) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Allocation is how a NAT chooses the external port: RFC 4787 section 4.2.
type Allocation uint8

const (
	AllocationUnknown Allocation = iota // not measured, or not port-preserving
	Preserving                          // the external port is the internal one
)

// String returns "preserving" or "unknown".
func (a Allocation) String() string {
	if a == Preserving {
		return "preserving"
	}
	return "unknown"
}

// MarshalText returns [Allocation.String].
func (a Allocation) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Config says whom to ask.
type Config struct {
	// Servers answer STUN Binding requests (RFC 8489); at least one, at most 16.
	Servers []netip.AddrPort
	// ListenPacket opens sockets. Nil: net.ListenPacket.
	ListenPacket func(network, address string) (net.PacketConn, error)
	// LocalAddrs lists the addresses of this machine. Nil: the system's.
	LocalAddrs func() ([]netip.Addr, error)
	// RTO is the first retransmission timeout (RFC 8489 section 6.2.1), doubled each
	// time. Zero: 200 ms.
	RTO time.Duration
}

const (
	maxServers = 16
	defaultRTO = 200 * time.Millisecond

	// MaxTime bounds a measurement with the default RTO.
	MaxTime = 25 * time.Second
)

// Server is what one server answered.
type Server struct {
	Addr   netip.AddrPort
	Mapped netip.AddrPort // invalid: it did not answer
	Other  netip.AddrPort // OTHER-ADDRESS, invalid where it has none
	RTT    time.Duration
	Err    error // why it could not be asked, nil where it was silent
}

// Family is what was found for IPv4 or for IPv6.
type Family struct {
	Local      bool           // this machine has a usable address of the family
	Mapped     netip.AddrPort // as the first server saw us; invalid: none did
	Mapping    Behavior
	Filtering  Behavior
	Allocation Allocation
	Carrier    bool // this machine's own address is in the shared space of RFC 6598
}

// Report is what a measurement found.
type Report struct {
	UDP        bool // some server answered
	IPv4, IPv6 Family
	Servers    []Server
}

// Measure asks every server from one socket, and from a second one those that can
// run the tests of RFC 5780. It fails only where no socket can be opened or ctx
// ends; a network that lets nothing through is a result.
func Measure(ctx context.Context, cfg Config) (*Report, error) {
	if n := len(cfg.Servers); n == 0 || n > maxServers {
		return nil, fmt.Errorf("measuring: %d servers, want 1 to %d", n, maxServers)
	}
	m, err := newMeasurement(cfg)
	if err != nil {
		return nil, err
	}
	defer m.mapping.close()
	defer m.filtering.close()
	if err := m.ask(ctx); err != nil {
		return nil, err
	}
	for _, v4 := range []bool{true, false} {
		if err := m.family(ctx, v4); err != nil {
			return nil, err
		}
	}
	return &m.report, nil
}

func systemAddrs() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, prefix.Addr().Unmap())
		}
	}
	return out, nil
}
