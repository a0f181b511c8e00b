package holepunch

import (
	"fmt"
	"net/netip"
)

// A Kind says how a candidate was learned (RFC 8445 section 5.1.1).
type Kind uint8

// The kinds of RFC 8445 section 4. The zero Kind is none of them.
const (
	Host            Kind = 1 + iota // an address of one of the peer's own interfaces
	ServerReflexive                 // what a STUN server or the node saw the peer's packets come from
	PeerReflexive                   // what we saw the peer's checks come from; never signalled
	Relayed                         // an allocation at a relay (TURN, RFC 8656)
)

func (k Kind) String() string {
	switch k {
	case Host:
		return "host"
	case ServerReflexive:
		return "server-reflexive"
	case PeerReflexive:
		return "peer-reflexive"
	case Relayed:
		return "relayed"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MaxVia is the longest relay name in a candidate, in bytes.
const MaxVia = 32

// A Candidate is a transport address at which a peer may be reachable.
type Candidate struct {
	Kind Kind
	Addr netip.AddrPort // unmapped, without a zone
	Via  string         // the relay's name, Relayed only, at most MaxVia bytes of printable ASCII
}

func (c Candidate) String() string {
	if c.Via != "" {
		return fmt.Sprintf("%v %v via %s", c.Kind, c.Addr, c.Via)
	}
	return fmt.Sprintf("%v %v", c.Kind, c.Addr)
}

// validate reports what makes c impossible to signal.
func (c Candidate) validate() error {
	switch {
	case c.Kind != Host && c.Kind != ServerReflexive && c.Kind != Relayed:
		return fmt.Errorf("%w: a %v candidate cannot be signalled", ErrMalformed, c.Kind)
	case !c.Addr.IsValid():
		return fmt.Errorf("%w: candidate without an address", ErrMalformed)
	case c.Via != "" && c.Kind != Relayed:
		return fmt.Errorf("%w: a %v candidate names relay %q", ErrMalformed, c.Kind, c.Via)
	case !validVia(c.Via):
		return fmt.Errorf("%w: relay name %q", ErrMalformed, c.Via)
	}
	return nil
}

// validVia accepts what may be printed on a terminal as it is.
func validVia(s string) bool {
	if len(s) > MaxVia {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// A Families is a set of IP versions. The zero Families means both.
type Families uint8

// The families.
const (
	IPv4 Families = 1 << iota
	IPv6
	// NoFamily is a set with nothing in it: a base over which nothing is sent or learned.
	NoFamily
)

// Has reports whether packets to a can be sent.
func (f Families) Has(a netip.Addr) bool {
	switch {
	case f == 0:
		return true
	case a.Unmap().Is4():
		return f&IPv4 != 0
	}
	return f&IPv6 != 0
}

// MinPort is the lowest port that is ever punched to: services listen below it,
// and connection trackers parse what goes there.
const MinPort = 1024

// forbidden is never punched to. Special networks that peers do live in are left
// out of it: private and shared ones (RFC 1918, 4193, 6598: a LAN, a carrier) and those for
// documentation and benchmarks (RFC 5737, 3849, 9637, 2544: never routed, used by labs).
var forbidden = mustPrefixes(
	"0.0.0.0/8",      // this network, RFC 1122
	"127.0.0.0/8",    // loopback
	"169.254.0.0/16", // link-local, and the metadata services of clouds
	"192.0.0.0/24",   // protocol assignments, RFC 6890
	"192.88.99.0/24", // 6to4 relays, RFC 7526
	"224.0.0.0/4",    // multicast
	"240.0.0.0/4",    // reserved, and broadcast
	"::/96",          // unspecified, loopback, IPv4-compatible
	"::ffff:0:0/96",  // IPv4-mapped: unmapped before this list is asked
	"64:ff9b::/96",   // NAT64 hides an IPv4 address, RFC 6052
	"64:ff9b:1::/48", // local-use NAT64, RFC 8215
	"100::/64",       // discard, RFC 6666
	"2001::/23",      // Teredo, ORCHID and other assignments
	"2002::/16",      // 6to4 hides an IPv4 address
	"5f00::/16",      // segment routing, RFC 9602
	"fe80::/10",      // link-local: meaningless without a zone, which cannot be signalled
	"fec0::/10",      // site-local, RFC 3879
	"ff00::/8",       // multicast
)

func mustPrefixes(ss ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

// Punchable returns nil when checks may be sent to a, else an error that is
// ErrForbidden and says why. It keeps a hostile peer from aiming our packets at
// loopback, multicast, cloud metadata, ports below MinPort or addresses that hide another.
func Punchable(a netip.AddrPort) error { return punchable(a, false) }

// punchable is Punchable, for one who is on the same machine as the node and may
// find the peer there too.
func punchable(a netip.AddrPort, loopback bool) error {
	addr := a.Addr().Unmap()
	switch {
	case !addr.IsValid():
		return fmt.Errorf("%w: no address", ErrForbidden)
	case a.Port() < MinPort:
		return fmt.Errorf("%w: port %d is below %d", ErrForbidden, a.Port(), MinPort)
	case addr.Zone() != "":
		return fmt.Errorf("%w: %v has a zone", ErrForbidden, addr)
	}
	for _, p := range forbidden {
		if p.Contains(addr) && !(loopback && addr.IsLoopback()) {
			return fmt.Errorf("%w: %v is in %v", ErrForbidden, addr, p)
		}
	}
	return nil
}

// unmap gives the one form of an address that this package compares and prints.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
