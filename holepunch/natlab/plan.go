package natlab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// plan hands out the addresses of a segment. Public addresses are taken from space that is
// assigned in the real world, since software under test rightly refuses the documentation
// prefixes; each public host and router has a /24 and a /48 of its own, as limits by source
// prefix expect.
type plan struct {
	v4     netip.Prefix // of the segment; invalid on the public internet
	v6     netip.Prefix // delegated to the segment, which itself is the first /64 of it; or invalid
	number uint32       // of the node attached last
	last4  uint32       // host part given last
}

const (
	publicHost4   = 20 << 24 // 20.x.y.10: hosts and routers on the public internet
	publicRouted4 = 21 << 24 // 21.x.y.0/24: networks behind a router without NAT
	firstHost     = 10
)

func addr4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func bits4(a netip.Addr) uint32 { return binary.BigEndian.Uint32(a.AsSlice()) }

// public6 is the n-th /48 of 2a00::/16.
func public6(n uint32) netip.Prefix {
	a := [16]byte{0: 0x2a}
	binary.BigEndian.PutUint32(a[2:], n)
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// number gives the next node of the segment its number.
func (s *segment) number() uint32 {
	s.plan.number++
	return s.plan.number
}

// host4 returns count unused addresses for node n, in the prefix of their network.
func (s *segment) host4(n uint32, count int) []netip.Prefix {
	var out []netip.Prefix
	for i := range count {
		if s.gateway == nil {
			out = append(out, netip.PrefixFrom(addr4(publicHost4|n<<8|uint32(firstHost+i)), 24))
		} else {
			out = append(out, s.take4())
		}
	}
	return out
}

// take4 finds an address that nobody in the segment has; .1 is the router's.
func (s *segment) take4() netip.Prefix {
	base := s.plan.v4.Masked().Addr()
	for {
		s.plan.last4++
		a := addr4(bits4(base) + 1 + s.plan.last4)
		if !s.plan.v4.Contains(a) {
			panic(fmt.Sprintf("natlab: network %v is full", s.plan.v4))
		}
		if s.hosts[a] == nil {
			return netip.PrefixFrom(a, s.plan.v4.Bits())
		}
	}
}

// host6 returns the address for node n, in the prefix of its network; false if there is no IPv6.
func (s *segment) host6(n uint32) (netip.Prefix, bool) {
	p, suffix := s.plan.v6, uint64(n)+1
	if s.gateway == nil {
		p, suffix = public6(n), 1
	}
	if !p.IsValid() {
		return netip.Prefix{}, false
	}
	b := p.Masked().Addr().As16()
	binary.BigEndian.PutUint64(b[8:], suffix)
	return netip.PrefixFrom(netip.AddrFrom16(b), 64), true
}

// routed4 returns a prefix for the network behind router n, which does not translate.
func (s *segment) routed4(n uint32) netip.Prefix {
	if s.gateway == nil {
		return netip.PrefixFrom(addr4(publicRouted4|n<<8), 24)
	}
	p := s.plan.v4
	if p.Bits() > 16 {
		panic(fmt.Sprintf("natlab: no room in %v for a routed network: set RouterConfig.Inside", p))
	}
	upperHalf := bits4(p.Masked().Addr()) | 1<<(31-p.Bits())
	return netip.PrefixFrom(addr4(upperHalf|n<<8), 24)
}

// routed6 returns a prefix to delegate to router n: /48, then /56, then /64.
func (s *segment) routed6(n uint32) (netip.Prefix, bool) {
	p := s.plan.v6
	if s.gateway == nil {
		return public6(n), true
	}
	if !p.IsValid() || p.Bits() >= 64 || n > 255 {
		return netip.Prefix{}, false
	}
	b := p.Masked().Addr().As16()
	b[p.Bits()/8] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom16(b), p.Bits()+8), true
}
