package natlab

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// HostConfig describes a host. The zero value has one IPv4 address from its network.
type HostConfig struct {
	// Link to the network; zero: see Config.Link.
	Link LinkConfig
	// Addrs replaces the automatic addresses. On the public internet any will do.
	Addrs []netip.Prefix
	// IPv6 adds an IPv6 address; NoIPv4 leaves out the IPv4 address. The network must have IPv6.
	IPv6, NoIPv4 bool
	// Local are further addresses that lead nowhere, as those of container bridges: listed by
	// Host.Addrs, reachable from the host itself only.
	Local []netip.Prefix
}

// Host is a computer: addresses and sockets. Safe for concurrent use.
type Host struct {
	in       *Internet
	name     string
	cfg      HostConfig
	ifaces   []*Interface
	sockets  map[netip.AddrPort]*Socket
	nextPort uint16
}

// Interface is what joins a host to one network.
type Interface struct {
	host  *Host
	link  *Link
	addrs []netip.Prefix
}

// The ephemeral ports: RFC 6335, section 6, "the Dynamic Ports, also known as the Private or
// Ephemeral Ports, from 49152-65535".
const firstEphemeral, ephemeralPorts = 49152, 16384

func newHost(s *segment, name string, c HostConfig) *Host {
	in := s.in
	in.mu.Lock()
	defer in.mu.Unlock()
	h := &Host{in: in, name: name, cfg: c, sockets: map[netip.AddrPort]*Socket{}}
	h.nextPort = uint16(in.rng("host " + name).IntN(ephemeralPorts))
	h.join(s, c)
	return h
}

// join attaches the host to one more network.
func (h *Host) join(s *segment, c HostConfig) *Interface {
	i := &Interface{host: h, addrs: c.Addrs}
	i.link = newLink(s, h, h.name, c.Link)
	n := s.number()
	if len(i.addrs) == 0 {
		i.addrs = s.automatic(n, c)
	}
	i.claim()
	h.ifaces = append(h.ifaces, i)
	return i
}

func (s *segment) automatic(n uint32, c HostConfig) []netip.Prefix {
	var addrs []netip.Prefix
	if !c.NoIPv4 {
		addrs = s.host4(n, 1)
	}
	if c.IPv6 || c.NoIPv4 {
		p, ok := s.host6(n)
		if !ok {
			panic("natlab: IPv6 host in a network without IPv6: set RouterConfig.IPv6")
		}
		addrs = append(addrs, p)
	}
	return addrs
}

func (i *Interface) claim() {
	for _, p := range i.addrs {
		i.link.seg.claim(p.Addr(), i.link)
	}
}

func (i *Interface) release() {
	for _, p := range i.addrs {
		delete(i.link.seg.hosts, p.Addr())
	}
	i.addrs = nil
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Link returns the link of the first interface, or nil if the host is detached.
func (h *Host) Link() *Link {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if len(h.ifaces) == 0 {
		return nil
	}
	return h.ifaces[0].link
}

// Addrs returns the host's addresses with the prefix lengths of their networks, those of the
// first interface first and the local ones last, without loopback.
func (h *Host) Addrs() []netip.Prefix {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	var out []netip.Prefix
	for _, i := range h.ifaces {
		out = append(out, i.addrs...)
	}
	return append(out, h.cfg.Local...)
}

// Addr returns the first address of Addrs, IPv4 in most labs, or the zero Addr.
func (h *Host) Addr() netip.Addr {
	if all := h.Addrs(); len(all) > 0 {
		return all[0].Addr()
	}
	return netip.Addr{}
}

// Attach adds an interface in a further network. Outgoing packets take the first interface that
// can carry them: the one that owns the socket's address, else one whose network holds the
// destination, else the first with an address of the family.
func (h *Host) Attach(n Network, c HostConfig) *Interface {
	s := n.inside()
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if s.in != h.in {
		panic(fmt.Sprintf("natlab: host %s: network of another Internet", h.name))
	}
	return h.join(s, c)
}

// Link returns the interface's link.
func (i *Interface) Link() *Link { return i.link }

// Addrs returns the interface's addresses.
func (i *Interface) Addrs() []netip.Prefix {
	i.host.in.mu.Lock()
	defer i.host.in.mu.Unlock()
	return slices.Clone(i.addrs)
}

// SetAddrs replaces the interface's addresses. Sockets bound to the unspecified address go on
// with the new ones; others go mute.
func (i *Interface) SetAddrs(addrs ...netip.Prefix) {
	i.host.in.mu.Lock()
	defer i.host.in.mu.Unlock()
	i.release()
	i.addrs = slices.Clone(addrs)
	i.claim()
}

// Detach removes the interface from the host, addresses and all.
func (i *Interface) Detach() {
	i.host.in.mu.Lock()
	defer i.host.in.mu.Unlock()
	i.release()
	i.host.ifaces = slices.DeleteFunc(i.host.ifaces, func(o *Interface) bool { return o == i })
}

// Interfaces returns the interfaces in order of preference.
func (h *Host) Interfaces() []*Interface {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	return slices.Clone(h.ifaces)
}

// Move takes the host off all its networks and attaches it to n with new addresses, as a
// telephone does that leaves the Wi-Fi. Until it is attached its writes fail with ENETUNREACH.
func (h *Host) Move(n Network, c HostConfig) *Interface {
	for _, i := range h.Interfaces() {
		i.Detach()
	}
	return h.Attach(n, c)
}

// owns reports whether a is an address of the host itself. Caller holds in.mu.
func (h *Host) owns(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	has := func(p netip.Prefix) bool { return p.Addr() == a }
	if slices.ContainsFunc(h.cfg.Local, has) {
		return true
	}
	return slices.ContainsFunc(h.ifaces, func(i *Interface) bool { return slices.ContainsFunc(i.addrs, has) })
}

// route finds the interface and source address for packets to dst. bound is the socket's
// address, or unspecified.
func (h *Host) route(bound, dst netip.Addr) (*Interface, netip.Addr, bool) {
	var via *Interface
	var src netip.Addr
	for _, i := range h.ifaces {
		for _, p := range i.addrs {
			a := p.Addr()
			switch {
			case a.Is4() != dst.Is4():
			case !bound.IsUnspecified() && a != bound:
			case p.Contains(dst):
				return i, a, true
			case via == nil:
				via, src = i, a
			}
		}
	}
	return via, src, via != nil
}

// receive delivers a packet to the socket it is for.
func (h *Host) receive(now time.Duration, p Packet) {
	if !h.owns(p.Dst.Addr()) { // it was renumbered while the packet was under way
		h.in.drop(now, h.name, p, ErrNoRoute)
		return
	}
	s := h.socketFor(p.Dst)
	if s == nil {
		h.in.drop(now, h.name, p, ErrNoSocket)
		return
	}
	if err := s.deliver(p); err != nil {
		h.in.drop(now, h.name, p, err)
		return
	}
	h.in.tap(now, Delivered, h.name, p, nil)
}

func (h *Host) socketFor(dst netip.AddrPort) *Socket {
	if s := h.sockets[dst]; s != nil {
		return s
	}
	return h.sockets[netip.AddrPortFrom(unspecified(dst.Addr()), dst.Port())]
}

// unspecified returns 0.0.0.0 or :: after the family of a.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
