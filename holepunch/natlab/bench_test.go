package natlab_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// BenchmarkPackets sends 1,200-byte packets from behind a carrier and a home NAT to a public host.
func BenchmarkPackets(b *testing.B) {
	in := natlab.New(natlab.Config{})
	defer func() { _ = in.Close() }()
	server := in.Host("server", natlab.HostConfig{})
	site, err := in.Site(natlab.SiteCarrier, "site")
	if err != nil {
		b.Fatal(err)
	}
	sc, err := server.ListenPacket("udp", ":7")
	if err != nil {
		b.Fatal(err)
	}
	c, err := site.Host.ListenPacket("udp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	dst := netip.AddrPortFrom(server.Addr(), 7)
	buf := make([]byte, 1200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.(*natlab.Socket).WriteToUDPAddrPort(buf, dst); err != nil {
			b.Fatal(err)
		}
		if _, _, err := sc.(*natlab.Socket).ReadFromUDPAddrPort(buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

// BenchmarkNAT translates packets of 1,000 flows out and their answers in.
func BenchmarkNAT(b *testing.B) {
	for _, m := range []natlab.Behavior{eim, apdm} {
		b.Run(fmt.Sprint(m), func(b *testing.B) {
			nat, err := natlab.NewNAT(natlab.NATConfig{External: []netip.Addr{netip.MustParseAddr("20.0.0.1")}, Mapping: m, Filtering: apdm, Allocation: natlab.Random})
			if err != nil {
				b.Fatal(err)
			}
			var remotes [1000]netip.AddrPort
			for i := range remotes {
				remotes[i] = ap(fmt.Sprintf("9.0.%d.%d:5", i/250, i%250+1))
			}
			now, src, i := time.Now(), ap(inside1), 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				p, err := nat.Outbound(now, natlab.Packet{Src: src, Dst: remotes[i%1000], TTL: 64})
				if err == nil {
					_, err = nat.Inbound(now, natlab.Packet{Src: p.Dst, Dst: p.Src, TTL: 64})
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
