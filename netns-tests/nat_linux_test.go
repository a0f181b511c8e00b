package netnstests

import (
	"fmt"
	"net/netip"
	"time"
)

// A behaviour is a word of RFC 4787, section 4.1 for mapping and section 5 for filtering.
type behaviour string

const (
	noTranslation behaviour = "none"
	independent   behaviour = "endpoint-independent"
	byAddress     behaviour = "address-dependent"
	byAddressPort behaviour = "address-and-port-dependent"
	nothingPasses behaviour = "blocked"
)

// A natKind is one kind of place a peer may be in.
type natKind struct {
	name      string
	layers    []natLayer // outermost first; none means a public address
	mapping   behaviour  // what the whole chain of layers shows to the outside
	filtering behaviour
	steals    bool // a packet that knocks first takes the port from the inside host
}

// A natLayer puts its rules into a router between wan0 and lan0.
type natLayer func(rules *ruleset, at natPlace)

// A natPlace is where a layer stands: its outside address and its one inside host.
type natPlace struct {
	outside, inside netip.Addr
}

// kinds returns every kind of place, by name, in the order of the matrix.
func kinds() []natKind {
	home := cone(byAddressPort, 0x0155)
	return []natKind{
		{name: "none", mapping: noTranslation, filtering: independent},
		{name: "eim-eif", layers: []natLayer{cone(independent, 0x0155)}, mapping: independent, filtering: independent},
		{name: "eim-adf", layers: []natLayer{cone(byAddress, 0x0155)}, mapping: independent, filtering: byAddress},
		{name: "eim-apdf", layers: []natLayer{home}, mapping: independent, filtering: byAddressPort},
		{name: "apdm", layers: []natLayer{symmetric}, mapping: byAddressPort, filtering: byAddressPort},
		{name: "carrier", layers: []natLayer{cone(byAddressPort, 0x00aa), home}, mapping: independent, filtering: byAddressPort},
		{name: "udp-blocked", layers: []natLayer{noUDP}, mapping: nothingPasses, filtering: nothingPasses},
	}
}

// linuxKind is the plain Linux router without an input firewall. It maps
// endpoint-independently only until ports collide, so it is not in the matrix.
func linuxKind() natKind {
	return natKind{
		name: "linux", layers: []natLayer{masquerade},
		mapping: independent, filtering: byAddressPort, steals: true,
	}
}

// kindNamed panics on an unknown name, which is a mistake in the test's text.
func kindNamed(name string) natKind {
	for _, k := range append(kinds(), linuxKind()) {
		if k.name == name {
			return k
		}
	}
	panic(fmt.Sprintf("no kind of NAT is called %q", name))
}

// mappingLifetime is what RFC 4787 REQ-5 asks for at least.
const mappingLifetime = 2 * time.Minute

// cone maps endpoint-independently by a fixed bijection: outside port = inside
// port XOR flip, both ways, so two conntrack entries can never want one port.
// What it lets in is a dynamic set, learned after translation on the way out and
// asked before conntrack sees a packet on the way in: what is not admitted
// leaves no state that could take a mapping away.
func cone(filter behaviour, flip uint16) natLayer {
	return func(r *ruleset, at natPlace) {
		admitted := r.learningSet("admitted", keyTypes(filter), mappingLifetime)

		first := r.chain("unadmitted", filterChain, prerouting, beforeConntrack)
		r.add(first, arriving("wan0"), udp(),
			filterKey(filter, sourceAddress, sourcePort, destinationPort), absent(admitted), drop())

		inward := r.chain("inward", natChain, prerouting, destinationNAT)
		r.add(inward, arriving("wan0"), udp(), dnat(at.inside, destinationPort, flip))

		outward := r.chain("outward", natChain, postrouting, sourceNAT)
		r.add(outward, leaving("wan0"), udp(), snat(at.outside, sourcePort, flip))
		r.add(outward, leaving("wan0"), masqueraded(false))

		last := r.chain("learn", filterChain, postrouting, afterNAT)
		r.add(last, leaving("wan0"), udp(),
			filterKey(filter, destinationAddress, destinationPort, sourcePort), learn(admitted))
	}
}

// symmetric maps every new destination to a new random port of the whole range
// and lets nothing in that conntrack did not see going out.
func symmetric(r *ruleset, _ natPlace) {
	outward := r.chain("outward", natChain, postrouting, sourceNAT)
	r.add(outward, leaving("wan0"), masqueraded(true))
	stateful(r)
}

// stateful lets nothing in that conntrack did not see going out.
func stateful(r *ruleset) {
	for _, hook := range []hook{input, forward} {
		c := r.chain(fmt.Sprintf("firewall-%d", *hook), filterChain, hook, filtering)
		r.add(c, arriving("wan0"), newConnection(), drop())
	}
}

// masquerade is what `iptables -t nat -A POSTROUTING -j MASQUERADE` alone does.
// An unsolicited packet reaches the router itself and leaves an entry in
// conntrack, and the inside host's own packet then has to take another port.
func masquerade(r *ruleset, _ natPlace) {
	outward := r.chain("outward", natChain, postrouting, sourceNAT)
	r.add(outward, leaving("wan0"), masqueraded(false))
}

// noUDP silently drops all UDP, both ways, and masquerades the rest.
func noUDP(r *ruleset, at natPlace) {
	masquerade(r, at)
	for _, hook := range []hook{input, forward} {
		c := r.chain(fmt.Sprintf("firewall-%d", *hook), filterChain, hook, filtering)
		r.add(c, udp(), drop())
	}
}
