package natlab

import "net/netip"

// Sizes in bytes of the headers that count against an MTU.
const (
	udpHeader  = 8
	ipv4Header = 20
	ipv6Header = 40
	maxPayload = 65507
)

// DefaultTTL is the TTL (IPv6: hop limit) of packets whose sender did not ask for another.
const DefaultTTL = 64

// Packet is one UDP datagram on its way. Addresses are unmapped (no ::ffff:a.b.c.d).
// Payload is shared between the copies of a packet and must not be modified.
type Packet struct {
	Src, Dst netip.AddrPort
	TTL      uint8
	Payload  []byte
}

// size is the length in bytes of the IP packet.
func (p Packet) size() int {
	if p.Dst.Addr().Is4() {
		return ipv4Header + udpHeader + len(p.Payload)
	}
	return ipv6Header + udpHeader + len(p.Payload)
}

func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
