package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// RouterConfig describes a router and the network inside it. The zero value routes a public IPv4
// /24 without translation or filtering, and no IPv6.
type RouterConfig struct {
	// Link to the network outside; zero: see Config.Link.
	Link LinkConfig
	// NAT translates IPv4; nil: IPv4 is routed. If NAT.External is empty the router takes
	// Externals (zero: 1) addresses of the outside network; NAT.Seed zero is derived from Config.Seed.
	NAT       *NATConfig
	Externals int
	// Inside is the IPv4 prefix of the network inside; zero: 192.168.1.0/24 behind a NAT, the same
	// everywhere as in real homes, else a prefix routed by the outside network.
	Inside netip.Prefix
	// IPv6 routes a prefix delegated by the outside network to the inside; hosts there can have IPv6.
	IPv6 bool
	// Firewall4 and Firewall6 filter IPv4, inside the NAT, and IPv6; nil: open.
	Firewall4, Firewall6 *FirewallConfig
}

// Router joins the network inside it to the one it is attached to. Safe for concurrent use.
type Router struct {
	in       *Internet
	name     string
	cfg      RouterConfig
	outer    *Link
	net      *segment
	nat      *NAT // nil: none
	fw4, fw6 *Firewall
	external []netip.Addr
}

var defaultInside = netip.MustParsePrefix("192.168.1.0/24")

func newRouter(outside *segment, name string, c RouterConfig) *Router {
	in := outside.in
	in.mu.Lock()
	defer in.mu.Unlock()
	r := &Router{in: in, name: name, cfg: c}
	n := outside.number()
	r.outer = newLink(outside, r, name, c.Link)
	r.net = newSegment(in, r)
	r.fw4, r.fw6 = mustFirewall(name, c.Firewall4), mustFirewall(name, c.Firewall6)
	if c.NAT != nil {
		r.setExternal(n)
	}
	r.number(n)
	return r
}

// number gives the inside network its prefixes.
func (r *Router) number(n uint32) {
	outside := r.outer.seg
	inside := r.cfg.Inside
	switch {
	case inside.IsValid():
	case r.cfg.NAT != nil:
		inside = defaultInside
	default:
		inside = outside.routed4(n)
	}
	r.net.plan.v4 = inside.Masked()
	if r.cfg.NAT == nil {
		outside.route(inside.Masked(), r.outer)
	}
	if r.cfg.IPv6 {
		p, ok := outside.routed6(n)
		if !ok {
			panic(fmt.Sprintf("natlab: router %s: no IPv6 prefix left outside", r.name))
		}
		r.net.plan.v6 = p
		outside.route(p, r.outer)
	}
}

// setExternal makes a new NAT with the external addresses of node n, or the configured ones.
func (r *Router) setExternal(n uint32) {
	c, outside := *r.cfg.NAT, r.outer.seg
	if len(c.External) == 0 {
		for _, p := range outside.host4(n, max(1, r.cfg.Externals)) {
			c.External = append(c.External, p.Addr())
		}
	}
	if c.Seed == 0 {
		c.Seed = r.in.hash(fmt.Sprintf("nat %s %d", r.name, n))
	}
	nat, err := NewNAT(c)
	if err != nil {
		panic(fmt.Sprintf("natlab: router %s: %v", r.name, err))
	}
	for _, a := range c.External {
		outside.claim(a, r.outer)
	}
	r.nat, r.external = nat, c.External
}

func mustFirewall(name string, c *FirewallConfig) *Firewall {
	if c == nil {
		return nil
	}
	f, err := NewFirewall(*c)
	if err != nil {
		panic(fmt.Sprintf("natlab: router %s: %v", name, err))
	}
	return f
}

// claim gives address a of the segment to the node on l.
func (s *segment) claim(a netip.Addr, l *Link) {
	if s.hosts[a] != nil {
		panic(fmt.Sprintf("natlab: %s: address %v is taken by %s", l.name, a, s.hosts[a].name))
	}
	s.hosts[a] = l
}

// Host attaches a host to the inside network.
func (r *Router) Host(name string, c HostConfig) *Host { return newHost(r.net, name, c) }

// Router attaches a router to the inside network: behind a carrier, say.
func (r *Router) Router(name string, c RouterConfig) *Router { return newRouter(r.net, name, c) }

// Site attaches a host behind a NAT or firewall of the given kind to the inside network.
func (r *Router) Site(kind SiteKind, name string) (*Site, error) { return newSite(r, kind, name) }

func (r *Router) inside() *segment { return r.net }

// Name returns the router's name.
func (r *Router) Name() string { return r.name }

// Link returns the link to the outside.
func (r *Router) Link() *Link { return r.outer }

// External returns the NAT's external addresses, or nothing without NAT.
func (r *Router) External() []netip.Addr {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return slices.Clone(r.external)
}

// Sessions returns the numbers of sessions and mappings of the NAT; see NAT.Sessions.
func (r *Router) Sessions() (sessions, mappings int) {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.nat == nil {
		return 0, 0
	}
	return r.nat.Sessions()
}

// Reboot forgets all mappings and flows. Packets are not lost otherwise.
func (r *Router) Reboot() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.nat != nil {
		r.nat.Reset()
	}
	for _, f := range []*Firewall{r.fw4, r.fw6} {
		if f != nil {
			f.Reset()
		}
	}
}

// Renumber gives a NAT router new external addresses and forgets all mappings, as after a
// reconnection to the provider. It does nothing where NATConfig.External was given.
func (r *Router) Renumber() {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.nat == nil || len(r.cfg.NAT.External) > 0 {
		return
	}
	old := r.external
	r.setExternal(r.outer.seg.number())
	for _, a := range old {
		delete(r.outer.seg.hosts, a)
	}
}

// receive handles a packet from outside.
func (r *Router) receive(now time.Duration, p Packet) {
	at := r.in.start.Add(now)
	if p.Dst.Addr().Is4() && r.nat != nil {
		q, err := r.nat.Inbound(at, p)
		if err != nil {
			r.in.drop(now, r.name, p, err)
			return
		}
		p = q
	}
	r.inward(now, p)
}

// inward carries a packet, already translated, into the inside network.
func (r *Router) inward(now time.Duration, p Packet) {
	err := r.hop(&p)
	if fw := r.firewall(p); err == nil && fw != nil {
		err = fw.Inbound(r.in.start.Add(now), p)
	}
	if err != nil {
		r.in.drop(now, r.name, p, err)
		return
	}
	r.in.tap(now, Forwarded, r.name, p, nil)
	r.net.forward(now, r.name, p, true)
}

// egress handles a packet from the inside that nobody inside has the address of.
func (r *Router) egress(now time.Duration, p Packet) {
	err := r.hop(&p)
	at := r.in.start.Add(now)
	if fw := r.firewall(p); err == nil && fw != nil {
		err = fw.Outbound(at, p)
	}
	var q Packet
	if err == nil {
		q, err = r.translate(at, p)
	}
	if err != nil {
		r.in.drop(now, r.name, p, err)
		return
	}
	if q.Dst != p.Dst { // hairpinned
		q.TTL++ // one router, one hop
		r.inward(now, q)
		return
	}
	r.in.tap(now, Forwarded, r.name, q, nil)
	r.outer.send(now, up, q)
}

func (r *Router) translate(at time.Time, p Packet) (Packet, error) {
	if r.nat == nil || !p.Dst.Addr().Is4() {
		return p, nil
	}
	if !r.net.plan.v4.Contains(p.Src.Addr()) {
		return p, ErrNoRoute // a router forwards no foreign source
	}
	return r.nat.Outbound(at, p)
}

// hop takes one from the TTL. It comes after inbound translation and before outbound
// translation, as in a Linux router: an inbound packet with TTL 1 still touches the NAT's state.
func (r *Router) hop(p *Packet) error {
	if p.TTL <= 1 {
		return ErrTTL
	}
	p.TTL--
	return nil
}

func (r *Router) firewall(p Packet) *Firewall {
	if p.Dst.Addr().Is4() {
		return r.fw4
	}
	return r.fw6
}
