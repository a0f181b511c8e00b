package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// Behavior says on how much of the remote endpoint a NAT's mapping or filtering depends
// (RFC 4787, sections 4.1 and 5).
type Behavior uint8

const (
	// EndpointIndependent: "The NAT reuses the port mapping for subsequent packets sent from the
	// same internal IP address and port (X:x) to any external IP address and port" (4.1); as a
	// filter it "filters out only packets not destined to the internal address and port X:x" (5).
	EndpointIndependent Behavior = iota
	// AddressDependent: the remote IP address counts, its port does not.
	AddressDependent
	// AddressAndPortDependent: the remote IP address and port count.
	AddressAndPortDependent
)

// String returns the RFC's words, as in the reports of `sally doctor`.
func (b Behavior) String() string {
	switch b {
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressDependent:
		return "address-dependent"
	case AddressAndPortDependent:
		return "address-and-port-dependent"
	}
	return fmt.Sprintf("Behavior(%d)", uint8(b))
}

// reduce keeps the part of remote that b depends on.
func (b Behavior) reduce(remote netip.AddrPort) netip.AddrPort {
	switch b {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

// Allocation says how a NAT chooses the external port of a new mapping (RFC 4787, section 4.2).
type Allocation uint8

const (
	// Preserving: "port preservation", the internal port if it is free, else a random one.
	Preserving Allocation = iota
	// Sequential: the port after the one given last, skipping those in use.
	Sequential
	// Delta: as Sequential, NATConfig.Delta ports apart.
	Delta
	// Random: any free port of NATConfig.Ports.
	Random
	// RandomRange: any free port of one window of NATConfig.BlockSize ports, the same for all inside hosts.
	RandomRange
	// Block: every inside host gets its own block of NATConfig.BlockSize ports, and random ports
	// from that block only, as carriers do to keep their logs small (RFC 6888, REQ-14).
	Block
)

// String returns the name of a in lower case.
func (a Allocation) String() string {
	names := [...]string{"preserving", "sequential", "delta", "random", "random-range", "block"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("Allocation(%d)", uint8(a))
}

// Pooling says which of several external addresses a mapping gets (RFC 4787, section 4.1).
type Pooling uint8

const (
	// Paired: all mappings of one inside host use one external address. REQ-2: "It is RECOMMENDED
	// that a NAT have an "IP address pooling" behavior of "Paired"".
	Paired Pooling = iota
	// Arbitrary: each mapping uses any of them.
	Arbitrary
)

// PortRange is an inclusive range of ports.
type PortRange struct{ Min, Max uint16 }

func (r PortRange) size() int { return int(r.Max) - int(r.Min) + 1 }

// NATConfig describes one NAT. The zero value, with External set, is an endpoint-independent
// mapping and filtering ("full cone") NAT with port preservation. Negative is off.
type NATConfig struct {
	// External addresses, IPv4, at least one.
	External []netip.Addr
	// Mapping and Filtering behaviour.
	Mapping, Filtering Behavior
	// Allocation of external ports, from Ports (zero: 1024–65535).
	Allocation Allocation
	Ports      PortRange
	// BlockSize is the number of ports in a Block or RandomRange; zero: 2048.
	BlockSize int
	// Delta is the step of the Delta allocation, which may be negative; zero: 2.
	Delta int
	// Pooling of external addresses.
	Pooling Pooling
	// Lifetime of an idle mapping and of an idle filter entry; zero: 2 minutes, the least that
	// REQ-5 allows; negative: for ever. Outbound packets refresh it (REQ-6).
	Lifetime time.Duration
	// AbsoluteLifetime ends a mapping however busy it is; zero: never.
	AbsoluteLifetime time.Duration
	// InboundRefresh lets inbound packets refresh too (section 4.3: "MAY").
	InboundRefresh bool
	// Hairpin lets inside hosts reach each other by external endpoints; the receiver sees the
	// external source (REQ-9a: "External source IP address and port").
	Hairpin bool
	// Stealing models Linux masquerade with no input firewall; see NAT.
	Stealing bool
	// MaxSessions bounds the pairs of inside and remote endpoint, and the stolen tuples; zero:
	// 65,536; negative: no bound.
	MaxSessions int
	// Seed of all random choices.
	Seed uint64
}

const (
	defaultLifetime    = 2 * time.Minute
	defaultMaxSessions = 65536
	defaultBlockSize   = 2048
	defaultDelta       = 2
	// stealFor is Linux's nf_conntrack_udp_timeout: a UDP flow seen in one direction only.
	stealFor = 30 * time.Second
)

// withDefaults returns a copy with the zero values filled in, or an error that wraps ErrConfig.
func (c NATConfig) withDefaults() (NATConfig, error) {
	if c.Ports == (PortRange{}) {
		c.Ports = PortRange{1024, 65535}
	}
	c.BlockSize = orDefault(c.BlockSize, defaultBlockSize)
	c.Delta = orDefault(c.Delta, defaultDelta)
	c.Lifetime = orDefault(c.Lifetime, defaultLifetime)
	c.MaxSessions = orDefault(c.MaxSessions, defaultMaxSessions)
	if c.Stealing {
		c.Mapping, c.Filtering = AddressAndPortDependent, AddressAndPortDependent
		c.Allocation = Preserving
	}
	if c.Allocation == Block {
		c.Pooling = Paired
	}
	c.BlockSize = min(c.BlockSize, c.Ports.size())
	c.External = append([]netip.Addr(nil), c.External...)
	return c, c.check()
}

func (c NATConfig) check() error {
	if len(c.External) == 0 {
		return fmt.Errorf("%w: a NAT needs an external address", ErrConfig)
	}
	for _, a := range c.External {
		if !a.Is4() {
			return fmt.Errorf("%w: external address %v is not IPv4", ErrConfig, a)
		}
	}
	if c.Ports.Min == 0 || c.Ports.Max < c.Ports.Min || c.BlockSize < 1 {
		return fmt.Errorf("%w: ports %d-%d, block of %d", ErrConfig, c.Ports.Min, c.Ports.Max, c.BlockSize)
	}
	if c.Mapping > AddressAndPortDependent || c.Filtering > AddressAndPortDependent || c.Allocation > Block {
		return fmt.Errorf("%w: %v mapping, %v filtering, %v allocation", ErrConfig, c.Mapping, c.Filtering, c.Allocation)
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
