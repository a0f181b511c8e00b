package server

import (
	"net/netip"
	"testing"
)

// BenchmarkPolicy is the check that every packet to a peer goes through.
func BenchmarkPolicy(b *testing.B) {
	s := start(b, nil)
	for name, peer := range map[string]string{"IPv4": "8.8.8.8:53", "IPv6": "[2a00::1]:53"} {
		b.Run(name, func(b *testing.B) {
			at := netip.MustParseAddrPort(peer)
			for b.Loop() {
				if to, relayed := s.localOf(at); !s.policy.sends(to, relayed) {
					b.Fatal("denied")
				}
			}
		})
	}
}
