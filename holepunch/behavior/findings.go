package behavior

import (
	"cmp"
	"fmt"
	"slices"
)

// Severity orders findings. The zero Severity is Good.
type Severity uint8

const (
	Good    Severity = iota // helps links
	Info                    // worth knowing
	Warning                 // costs some pairs their direct path
	Bad                     // prevents direct links
)

// String returns "good", "info", "warning" or "bad".
func (s Severity) String() string {
	return [...]string{"good", "info", "warning", "bad"}[s&3]
}

// MarshalText returns [Severity.String].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing a user should know. ID is stable; the words may change.
type Finding struct {
	ID       string   `json:"id"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Fix      string   `json:"fix"` // "" where nothing needs to be done
}

// Findings says what the report means, the worst first.
func (r *Report) Findings() []Finding {
	var out []Finding
	if !r.UDP {
		out = append(out, Finding{"udp-blocked", Bad,
			fmt.Sprintf("UDP does not get through: none of %d STUN servers answered", len(r.Servers)),
			"let UDP out of this network, at least to the node's port; check that the node runs"})
	} else {
		out = append(out, r.silent()...)
		out = append(out, familyFindings("ipv4", &r.IPv4)...)
		out = append(out, familyFindings("ipv6", &r.IPv6)...)
	}
	if !r.IPv6.Local {
		out = append(out, Finding{"no-ipv6", Info, "this machine has no IPv6 address",
			"ask the provider for IPv6: it needs no NAT, and two peers with it link directly"})
	}
	if r.IPv4.Carrier {
		out = append(out, Finding{"carrier-nat", Info, "this machine's own address is one of a carrier's NAT (100.64.0.0/10)",
			"a port forwarded at home does not help here; IPv6 or a public address from the provider does"})
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return out
}

func (r *Report) silent() (out []Finding) {
	for _, s := range r.Servers {
		switch {
		case s.Mapped.IsValid():
		case s.Err != nil:
			out = append(out, Finding{"server-unreachable", Info,
				fmt.Sprintf("the STUN server %s cannot be reached from here: %v", s.Addr, s.Err), ""})
		default:
			out = append(out, Finding{"server-silent", Warning,
				fmt.Sprintf("the STUN server %s does not answer", s.Addr), "check that it runs and that its UDP port is open"})
		}
	}
	return out
}

func familyFindings(name string, f *Family) []Finding {
	if !f.Mapped.IsValid() {
		return nil
	}
	words := map[string]string{"ipv4": "IPv4", "ipv6": "IPv6"}[name]
	return slices.Concat(mappingFindings(words, f), filteringFindings(words, f))
}

func mappingFindings(words string, f *Family) []Finding {
	switch f.Mapping {
	case None:
		return []Finding{{"no-nat", Good, fmt.Sprintf("%s: no NAT, this machine is %s to everybody", words, f.Mapped.Addr()), ""}}
	case EndpointIndependent:
		return []Finding{{"nat-mapping-endpoint-independent", Good,
			words + ": the NAT keeps one external port for all peers, so holes can be punched", ""}}
	case AddressDependent, AddressAndPortDependent:
		return []Finding{{"nat-mapping-endpoint-dependent", Warning,
			words + ": the NAT uses another external port for each peer (\"symmetric\"): pairs with a peer that filters by port need a relay",
			"in the router: turn on \"full cone\", \"endpoint-independent NAT\" or UPnP/PCP, or forward a UDP port to this machine; IPv6 avoids it"}}
	}
	return []Finding{{"nat-mapping-unknown", Info, fmt.Sprintf("%s: seen as %s; one server with one address cannot tell what the NAT does", words, f.Mapped),
		"name a second --node, or a node that listens on two addresses"}}
}

func filteringFindings(words string, f *Family) []Finding {
	switch f.Filtering {
	case None, EndpointIndependent:
		return []Finding{{"filtering-endpoint-independent", Good, words + ": packets from anybody reach an open port", ""}}
	case AddressDependent:
		return []Finding{{"filtering-address-dependent", Info, words + ": only addresses that were sent to may answer; punching opens that", ""}}
	case AddressAndPortDependent:
		return []Finding{{"filtering-address-and-port-dependent", Info,
			words + ": only the exact address and port that was sent to may answer; punching opens that unless the peer's port changes", ""}}
	}
	return nil
}
