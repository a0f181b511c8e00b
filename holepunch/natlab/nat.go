package natlab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// NAT is a network address and port translator for IPv4 UDP in the terms of RFC 4787. It is
// pure: packet and time in, packet out. It owns no socket, goroutine or timer, and is not safe
// for concurrent use. Time must not run backwards.
//
// Every mapping owns its external endpoint alone: REQ-3, "A NAT MUST NOT have a "Port assignment"
// behavior of "Port overloading"". The exception is NATConfig.Stealing, which models Linux
// masquerade. There the unit is the tuple (external endpoint, remote endpoint), and the port is
// preserved towards every remote for which the tuple is free. A packet nobody asked for, from E
// to external port p, is taken by the router itself and occupies its tuple for 30 s; an inside
// host whose packets to E would leave from p then gets another, random port for E alone.
type NAT struct {
	cfg       NATConfig
	rng       *rand.Rand
	flows     map[flow]*mapping
	tuples    map[tuple]*mapping
	stolen    map[tuple]time.Time // until when
	hosts     map[netip.Addr]*insideHost
	blocks    map[netip.AddrPort]netip.Addr // first endpoint of a block → its inside host
	sessions  int
	last      []int     // per external address: the port given last
	window    []uint16  // per external address: first port of the RandomRange
	nextSweep time.Time // the next time at which something may have expired
	lastSweep time.Time
}

// flow is what selects a mapping for outbound packets; remote is reduced by the mapping behaviour.
type flow struct{ inside, remote netip.AddrPort }

// tuple is what selects a mapping for inbound packets; remote is zero unless ports are overloaded.
type tuple struct{ external, remote netip.AddrPort }

type mapping struct {
	flow          flow
	tuple         tuple
	created, used time.Time
	// peers holds the sessions: when the last packet went to, or with inbound refresh came from,
	// each remote endpoint. addrs is the same by address, kept for address-dependent filtering only.
	peers map[netip.AddrPort]time.Time
	addrs map[netip.Addr]time.Time
}

// insideHost is what the NAT knows of an inside address with live mappings.
type insideHost struct {
	mappings int
	order    []*mapping // oldest first; kept for Stealing only
	block    netip.AddrPort
}

// NewNAT returns a NAT without mappings. The error wraps ErrConfig.
func NewNAT(cfg NATConfig) (*NAT, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &NAT{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x4e4154))}
	n.Reset()
	return n, nil
}

// Reset forgets all mappings, as a reboot does. The random sequence goes on.
func (n *NAT) Reset() {
	n.flows = map[flow]*mapping{}
	n.tuples = map[tuple]*mapping{}
	n.stolen = map[tuple]time.Time{}
	n.hosts = map[netip.Addr]*insideHost{}
	n.blocks = map[netip.AddrPort]netip.Addr{}
	n.sessions = 0
	n.last = make([]int, len(n.cfg.External))
	n.window = make([]uint16, len(n.cfg.External))
	for i := range n.cfg.External {
		n.last[i] = n.cfg.Ports.lo() + n.rng.IntN(n.cfg.Ports.size())
		n.window[i] = n.cfg.Ports.Min + uint16(n.rng.IntN(n.cfg.Ports.size()-n.cfg.BlockSize+1))
	}
}

// Outbound translates a packet from the inside. If the destination is inside too (hairpinning),
// the result is the packet as that inside host receives it. Errors: ErrExhausted, ErrNoHairpin,
// ErrFamily and, for hairpinned packets, those of Inbound.
func (n *NAT) Outbound(now time.Time, p Packet) (Packet, error) {
	if !translatable(p) || n.isExternal(p.Src.Addr()) {
		return Packet{}, fmt.Errorf("%w: %v to %v", ErrFamily, p.Src, p.Dst)
	}
	n.sweepIfDue(now)
	hairpin := n.isExternal(p.Dst.Addr())
	if hairpin && !n.cfg.Hairpin {
		return Packet{}, ErrNoHairpin
	}
	m, err := n.mappingFor(now, p.Src, p.Dst)
	if err != nil {
		return Packet{}, err
	}
	n.touch(now, m, p.Dst)
	p.Src = m.tuple.external
	if hairpin {
		return n.Inbound(now, p)
	}
	return p, nil
}

// Inbound translates a packet from the outside. Errors: ErrNoMapping, ErrFiltered, ErrFamily.
func (n *NAT) Inbound(now time.Time, p Packet) (Packet, error) {
	if !translatable(p) {
		return Packet{}, fmt.Errorf("%w: %v to %v", ErrFamily, p.Src, p.Dst)
	}
	n.sweepIfDue(now)
	t := n.tupleOf(p.Dst, p.Src)
	m := n.live(now, t)
	if m == nil {
		n.steal(now, t)
		return Packet{}, ErrNoMapping
	}
	if !n.permits(now, m, p.Src) {
		return Packet{}, ErrFiltered
	}
	if n.cfg.InboundRefresh {
		m.used = now
		if _, ok := m.peers[p.Src]; ok {
			n.touch(now, m, p.Src)
		}
	}
	p.Dst = m.flow.inside
	return p, nil
}

// Sessions returns the number of pairs of inside and remote endpoint in the table, of which some
// may have expired since the last packet, and the number of mappings.
func (n *NAT) Sessions() (sessions, mappings int) { return n.sessions, len(n.flows) }

// External returns the external addresses.
func (n *NAT) External() []netip.Addr { return slices.Clone(n.cfg.External) }

func translatable(p Packet) bool {
	return p.Src.Addr().Is4() && p.Dst.Addr().Is4() && p.Src.Port() != 0 && p.Dst.Port() != 0
}

func (n *NAT) isExternal(a netip.Addr) bool { return slices.Contains(n.cfg.External, a) }

func (n *NAT) tupleOf(external, remote netip.AddrPort) tuple {
	if n.cfg.Stealing {
		return tuple{external, remote}
	}
	return tuple{external: external}
}

// mappingFor returns the live mapping for a packet from inside to remote with room for one
// session to remote, and makes it if there is none.
func (n *NAT) mappingFor(now time.Time, inside, remote netip.AddrPort) (*mapping, error) {
	f := flow{inside, n.cfg.Mapping.reduce(remote)}
	m := n.flows[f]
	if m != nil && n.expired(now, m) {
		n.remove(m)
		m = nil
	}
	if m != nil {
		if _, ok := m.peers[remote]; ok {
			return m, nil
		}
	}
	if n.full(now) {
		return nil, ErrExhausted
	}
	if m != nil {
		return m, nil
	}
	external, ok := n.allocate(now, inside, remote)
	if !ok {
		return nil, ErrExhausted
	}
	return n.add(now, f, n.tupleOf(external, remote)), nil
}

func (n *NAT) add(now time.Time, f flow, t tuple) *mapping {
	m := &mapping{flow: f, tuple: t, created: now, used: now, peers: map[netip.AddrPort]time.Time{}}
	if n.cfg.Filtering == AddressDependent {
		m.addrs = map[netip.Addr]time.Time{}
	}
	n.flows[f] = m
	n.tuples[t] = m
	h := n.host(f.inside.Addr())
	h.mappings++
	if n.cfg.Stealing {
		h.order = append(h.order, m)
	}
	return m
}

func (n *NAT) host(a netip.Addr) *insideHost {
	h := n.hosts[a]
	if h == nil {
		h = &insideHost{}
		n.hosts[a] = h
	}
	return h
}

// touch records traffic between m and remote. REQ-6: "The NAT mapping Refresh Direction MUST have
// a "NAT Outbound refresh behavior" of "True"".
func (n *NAT) touch(now time.Time, m *mapping, remote netip.AddrPort) {
	if _, ok := m.peers[remote]; !ok {
		n.sessions++
	}
	m.used = now
	m.peers[remote] = now
	if m.addrs != nil {
		m.addrs[remote.Addr()] = now
	}
}

func (n *NAT) permits(now time.Time, m *mapping, remote netip.AddrPort) bool {
	var at time.Time
	var ok bool
	switch n.cfg.Filtering {
	case EndpointIndependent:
		return true
	case AddressDependent:
		at, ok = m.addrs[remote.Addr()]
	case AddressAndPortDependent:
		at, ok = m.peers[remote]
	}
	return ok && !n.idle(now, at)
}

// steal lets an unsolicited packet occupy its tuple.
func (n *NAT) steal(now time.Time, t tuple) {
	if !n.cfg.Stealing || !n.isExternal(t.external.Addr()) {
		return
	}
	if _, ok := n.stolen[t]; !ok && n.cfg.MaxSessions > 0 && len(n.stolen) >= n.cfg.MaxSessions {
		return
	}
	n.stolen[t] = now.Add(stealFor)
}
