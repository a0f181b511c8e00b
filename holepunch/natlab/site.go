package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// SiteKind names a kind of home for a peer, as in `sally demo --left TYPE`.
type SiteKind string

// The kinds. "Cone" and "symmetric" are the RFC 3489 names people know; the NATs allocate random
// ports unless said otherwise, so that nothing works by the luck of a preserved port.
const (
	// SiteNone is a public host.
	SiteNone SiteKind = "none"
	// SiteFullCone: endpoint-independent mapping and filtering.
	SiteFullCone SiteKind = "full-cone"
	// SiteRestrictedCone: endpoint-independent mapping, address-dependent filtering.
	SiteRestrictedCone SiteKind = "restricted-cone"
	// SitePortRestricted: endpoint-independent mapping, address-and-port-dependent filtering.
	SitePortRestricted SiteKind = "port-restricted"
	// SiteSymmetric: address-and-port-dependent mapping and filtering.
	SiteSymmetric SiteKind = "symmetric"
	// SiteSymmetricSequential: as SiteSymmetric, ports in sequence.
	SiteSymmetricSequential SiteKind = "symmetric-sequential"
	// SiteSymmetricDelta: as SiteSymmetric, ports three apart.
	SiteSymmetricDelta SiteKind = "symmetric-delta"
	// SiteSymmetricBlock: as SiteSymmetric, ports from a block of 2,048.
	SiteSymmetricBlock SiteKind = "symmetric-block"
	// SiteAddressDependent: address-dependent mapping and filtering.
	SiteAddressDependent SiteKind = "address-dependent"
	// SiteCarrier: a port-restricted home behind a carrier with endpoint-independent mapping,
	// address-and-port-dependent filtering, blocks of 2,048 ports and hairpinning (RFC 6888).
	SiteCarrier SiteKind = "carrier"
	// SiteLinux: Linux masquerade without an input firewall; see NATConfig.Stealing.
	SiteLinux SiteKind = "linux"
	// SiteUDPBlocked: no UDP passes.
	SiteUDPBlocked SiteKind = "udp-blocked"
	// SiteIPv6Firewall: no IPv4; public IPv6 behind a stateful firewall.
	SiteIPv6Firewall SiteKind = "ipv6-firewall"
	// SiteDualStack: IPv4 as SiteSymmetric, IPv6 as SiteIPv6Firewall.
	SiteDualStack SiteKind = "dual-stack"
)

// SiteKinds returns all kinds.
func SiteKinds() []SiteKind {
	return []SiteKind{SiteNone, SiteFullCone, SiteRestrictedCone, SitePortRestricted, SiteSymmetric,
		SiteSymmetricSequential, SiteSymmetricDelta, SiteSymmetricBlock, SiteAddressDependent,
		SiteCarrier, SiteLinux, SiteUDPBlocked, SiteIPv6Firewall, SiteDualStack}
}

// ParseSiteKind returns the kind of that name. The error lists the names and wraps ErrConfig.
func ParseSiteKind(s string) (SiteKind, error) {
	if slices.Contains(SiteKinds(), SiteKind(s)) {
		return SiteKind(s), nil
	}
	names := make([]string, 0, len(SiteKinds()))
	for _, k := range SiteKinds() {
		names = append(names, string(k))
	}
	return "", fmt.Errorf("%w: unknown kind of site %q; known: %s", ErrConfig, s, strings.Join(names, ", "))
}

// Site is a host in its home.
type Site struct {
	Kind SiteKind
	// Host is the peer's computer. More can be attached with Home.Host.
	Host *Host
	// Home is the router in front of the host; nil for SiteNone.
	Home *Router
	// Carrier is the router in front of Home; nil except for SiteCarrier.
	Carrier *Router
}

// Uplink returns the link by which the whole site hangs on its network.
func (s *Site) Uplink() *Link {
	switch {
	case s.Carrier != nil:
		return s.Carrier.Link()
	case s.Home != nil:
		return s.Home.Link()
	}
	return s.Host.Link()
}

// NAT returns the behaviour of the NAT nearest to the internet, as a probe from outside sees it;
// false for kinds without IPv4 NAT.
func (k SiteKind) NAT() (NATConfig, bool) {
	const eim, adm, apdm = EndpointIndependent, AddressDependent, AddressAndPortDependent
	switch k {
	case SiteFullCone:
		return NATConfig{Mapping: eim, Filtering: eim, Allocation: Random}, true
	case SiteRestrictedCone:
		return NATConfig{Mapping: eim, Filtering: adm, Allocation: Random}, true
	case SitePortRestricted, SiteUDPBlocked:
		return NATConfig{Mapping: eim, Filtering: apdm, Allocation: Random}, true
	case SiteSymmetric, SiteDualStack:
		return NATConfig{Mapping: apdm, Filtering: apdm, Allocation: Random}, true
	case SiteSymmetricSequential:
		return NATConfig{Mapping: apdm, Filtering: apdm, Allocation: Sequential}, true
	case SiteSymmetricDelta:
		return NATConfig{Mapping: apdm, Filtering: apdm, Allocation: Delta, Delta: 3}, true
	case SiteSymmetricBlock:
		return NATConfig{Mapping: apdm, Filtering: apdm, Allocation: Block}, true
	case SiteAddressDependent:
		return NATConfig{Mapping: adm, Filtering: adm, Allocation: Random}, true
	case SiteCarrier:
		return NATConfig{Mapping: eim, Filtering: apdm, Allocation: Block, Hairpin: true}, true
	case SiteLinux:
		return NATConfig{Mapping: apdm, Filtering: apdm, Stealing: true, InboundRefresh: true, Lifetime: 2 * time.Minute}, true
	}
	return NATConfig{}, false
}

// carrierInside is the shared address space of RFC 6598.
var carrierInside = netip.MustParsePrefix("100.64.0.0/10")

// newSite builds a site in a network. Names: the host's is name, its router's name+"-home", the
// carrier's name+"-carrier".
func newSite(n Network, kind SiteKind, name string) (*Site, error) {
	if _, err := ParseSiteKind(string(kind)); err != nil {
		return nil, err
	}
	s := &Site{Kind: kind}
	if kind == SiteNone {
		s.Host = n.Host(name, HostConfig{})
		return s, nil
	}
	home := RouterConfig{}
	host := HostConfig{}
	if c, ok := kind.NAT(); ok {
		home.NAT = &c
	}
	switch kind {
	case SiteCarrier:
		s.Carrier = n.Router(name+"-carrier", RouterConfig{NAT: home.NAT, Inside: carrierInside})
		c, _ := SitePortRestricted.NAT()
		home.NAT = &c
		n = s.Carrier
	case SiteUDPBlocked:
		home.Firewall4 = &FirewallConfig{Mode: FirewallUDPBlocked}
	case SiteIPv6Firewall, SiteDualStack:
		home.IPv6, home.Firewall6 = true, &FirewallConfig{Mode: FirewallStateful}
		host.IPv6, host.NoIPv4 = true, kind == SiteIPv6Firewall
	}
	s.Home = n.Router(name+"-home", home)
	s.Host = s.Home.Host(name, host)
	return s, nil
}
