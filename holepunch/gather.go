package holepunch

import (
	"cmp"
	"net/netip"
	"slices"
)

// A Policy says which candidates a peer is told: addresses tell where a user is
// (RFC 8828). The zero Policy is All.
type Policy uint8

const (
	All        Policy = iota // every candidate
	PublicOnly               // no private addresses: only what every server sees anyway
	RelayOnly                // nothing but relays
)

// Allows reports whether c may be told.
func (p Policy) Allows(c Candidate) bool {
	switch p {
	case RelayOnly:
		return c.Kind == Relayed
	case PublicOnly:
		return c.Kind != Host || !isPrivate(c.Addr.Addr())
	case All:
	}
	return true
}

// The bounds on host candidates.
const (
	MaxHostCandidates = 16
	maxVirtual        = 4 // of tunnels and containers together
	maxPerInterface   = 4 // of IPv4; of IPv6 one global and one unique local address
)

// A GatherConfig says what to gather from. Only LocalPort is needed.
type GatherConfig struct {
	Interfaces func() ([]Interface, error) // nil: SystemInterfaces
	LocalPort  uint16                      // of the socket
	LocalAddr  netip.Addr                  // that the socket is bound to; zero or unspecified: all
	Families   Families                    // that it can send to; zero: both
	Observed   []netip.AddrPort            // our mapped addresses, as STUN servers and the node report them
	Policy     Policy
	Loopback   bool // loopback addresses too: a peer may be on this machine
}

// Gather returns the candidates to signal, likeliest first: the server-reflexive ones, then at most
// MaxHostCandidates of the host. Duplicates ("redundant", RFC 8445 section 5.1.3) and what is not
// Punchable are left out; relayed candidates are the caller's to append. It sends nothing.
// Where interfaces cannot be listed it returns the error beside the reflexive candidates.
func Gather(cfg GatherConfig) ([]Candidate, error) {
	hosts, err := HostCandidates(cfg)
	var out []Candidate
	for _, a := range cfg.Observed {
		out = appendCandidateOnce(out, Candidate{Kind: ServerReflexive, Addr: unmap(a)}, cfg)
	}
	out = out[:min(len(out), MaxCandidates-MaxHostCandidates)]
	for _, c := range hosts {
		out = appendCandidateOnce(out, c, cfg)
	}
	return out, err
}

// HostCandidates returns the host candidates: of the interface of the default route first,
// then of other network cards, then a few of tunnels, then of containers and bridges, so
// that a host with forty of those still offers its useful address first.
func HostCandidates(cfg GatherConfig) ([]Candidate, error) {
	interfaces, err := list(cfg.Interfaces)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(interfaces, func(a, b Interface) int { return cmp.Compare(a.class(), b.class()) })
	var out []Candidate
	virtual := 0
	for _, i := range interfaces {
		for _, addr := range pick(i) {
			if i.class() >= classTunnel && virtual >= maxVirtual || len(out) >= MaxHostCandidates {
				break
			}
			before := len(out)
			out = appendCandidateOnce(out, Candidate{Kind: Host, Addr: netip.AddrPortFrom(addr, cfg.LocalPort)}, cfg)
			if i.class() >= classTunnel {
				virtual += len(out) - before
			}
		}
	}
	return out, nil
}

// LocalPrefixes returns the networks that peers may share with us: SessionConfig wants
// them. Those of containers are left out, because every machine has the same ones. Nil means the system's.
func LocalPrefixes(interfaces func() ([]Interface, error)) ([]netip.Prefix, error) {
	all, err := list(interfaces)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, i := range all {
		for _, p := range i.Prefixes {
			host := p.Bits() == p.Addr().BitLen() // alone in its network
			if i.class() == classContainer || host || p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() {
				continue
			}
			if m := p.Masked(); !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out, nil
}

// list returns the usable interfaces.
func list(interfaces func() ([]Interface, error)) ([]Interface, error) {
	if interfaces == nil {
		interfaces = SystemInterfaces
	}
	all, err := interfaces()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(i Interface) bool { return !i.usable() }), nil
}

// pick chooses among the addresses of one interface. Of IPv6 one global address is
// enough: the others are the same network, and a peer that knows several can link them to one user.
func pick(i Interface) []netip.Addr {
	var out []netip.Addr
	v4, global, local := 0, 0, 0
	for _, p := range i.Prefixes {
		addr := p.Addr().Unmap()
		count, most := &global, 1
		switch {
		case addr.Is4():
			count, most = &v4, maxPerInterface
		case addr.IsPrivate():
			count = &local
		}
		if *count < most && Punchable(netip.AddrPortFrom(addr, MinPort)) == nil {
			*count++
			out = append(out, addr)
		}
	}
	return out
}

// appendCandidateOnce adds c where it is allowed, useful and new.
func appendCandidateOnce(out []Candidate, c Candidate, cfg GatherConfig) []Candidate {
	bound := cfg.LocalAddr.Unmap()
	elsewhere := c.Kind == Host && bound.IsValid() && !bound.IsUnspecified() && bound != c.Addr.Addr()
	known := slices.ContainsFunc(out, func(o Candidate) bool { return o.Addr == c.Addr })
	if known || elsewhere || !cfg.Families.Has(c.Addr.Addr()) || !cfg.Policy.Allows(c) || punchable(c.Addr, cfg.Loopback) != nil {
		return out
	}
	return append(out, c)
}
