package e2e

import (
	"net"
	"net/netip"
	"sync"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// cable is between a host and its sockets and swallows packets on demand: a link
// of natlab can only be cut for everybody at once, and here the way to a peer
// must die while the ways to the node and the relays live.
type cable struct {
	mu  sync.Mutex
	out func(to netip.AddrPort) bool   // true: swallowed; nil: nothing is
	in  func(from netip.AddrPort) bool // the same for what arrives
}

// cut swallows what goes out or comes in where bad is true.
func (c *cable) cut(out, in func(netip.AddrPort) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out, c.in = out, in
}

func (c *cable) restore() { c.cut(nil, nil) }

// strangers is what cut takes for "everybody but these machines".
func strangers(known ...*natlab.Host) func(netip.AddrPort) bool {
	var addrs []netip.Addr
	for _, h := range known {
		for _, p := range h.Addrs() {
			addrs = append(addrs, p.Addr())
		}
	}
	return func(a netip.AddrPort) bool {
		for _, k := range addrs {
			if a.Addr().Unmap() == k {
				return false
			}
		}
		return true
	}
}

func (c *cable) swallows(at func(*cable) func(netip.AddrPort) bool, a net.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := at(c)
	udp, ok := a.(*net.UDPAddr)
	return f != nil && ok && f(udp.AddrPort())
}

func outward(c *cable) func(netip.AddrPort) bool { return c.out }
func inward(c *cable) func(netip.AddrPort) bool  { return c.in }

// plug is the seam: a ListenPacket whose sockets hang on the cable.
func (c *cable) plug(h *natlab.Host) func(network, address string) (net.PacketConn, error) {
	return func(network, address string) (net.PacketConn, error) {
		pc, err := h.ListenPacket(network, address)
		if err != nil {
			return nil, err
		}
		return &cabled{pc, c}, nil
	}
}

// cabled is a socket on a cable.
type cabled struct {
	net.PacketConn
	c *cable
}

func (s *cabled) WriteTo(b []byte, to net.Addr) (int, error) {
	if s.c.swallows(outward, to) {
		return len(b), nil
	}
	return s.PacketConn.WriteTo(b, to)
}

func (s *cabled) WriteToTTL(b []byte, to net.Addr, ttl int) (int, error) {
	if s.c.swallows(outward, to) {
		return len(b), nil
	}
	return s.PacketConn.(natlab.TTLWriter).WriteToTTL(b, to, ttl)
}

func (s *cabled) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.PacketConn.ReadFrom(b)
		if err != nil || !s.c.swallows(inward, from) {
			return n, from, err
		}
	}
}
