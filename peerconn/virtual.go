package peerconn

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
)

// Virtual addresses are how QUIC on our socket names a route. They lie in one
// unique local IPv6 prefix (RFC 4193) and never reach a wire.
var virtualPrefix = [8]byte{0xfd, 's', 'a', 'l', 'l', 'y', 0, 0}

const virtualPort = 1

var virtualCount atomic.Uint64

func newVirtual() *net.UDPAddr {
	ip := make(net.IP, net.IPv6len)
	copy(ip, virtualPrefix[:])
	binary.BigEndian.PutUint64(ip[8:], virtualCount.Add(1))
	return &net.UDPAddr{IP: ip, Port: virtualPort}
}

func isVirtual(ip net.IP) bool {
	return len(ip) == net.IPv6len && [8]byte(ip[:8]) == virtualPrefix
}

// virtualOf returns the virtual address in a, if it is one.
func virtualOf(a net.Addr) (netip.Addr, bool) {
	udp, ok := a.(*net.UDPAddr)
	if !ok || !isVirtual(udp.IP) {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(udp.IP)
}
