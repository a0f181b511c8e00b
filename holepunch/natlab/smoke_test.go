package natlab

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestSmoke(t *testing.T) {
	for _, k := range SiteKinds() {
		synctest.Test(t, func(t *testing.T) {
			in := New(Config{Link: LinkConfig{Latency: 10 * time.Millisecond}})
			defer in.Close()
			srv := in.Host("srv", HostConfig{IPv6: true})
			s, err := in.Site(k, "a")
			if err != nil {
				t.Fatal(err)
			}
			pc, err := srv.ListenPacket("udp", ":3478")
			if err != nil {
				t.Fatal(err)
			}
			c, _ := s.Host.ListenPacket("udp", ":0")
			for _, p := range srv.Addrs() {
				start := time.Now()
				n, err := c.(*Socket).WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(p.Addr(), 3478))
				pc.SetReadDeadline(time.Now().Add(time.Second))
				b := make([]byte, 10)
				m, from, err2 := pc.ReadFrom(b)
				if err2 == nil {
					pc.WriteTo(b[:m], from)
					c.SetReadDeadline(time.Now().Add(time.Second))
					_, _, err2 = c.ReadFrom(b)
				}
				t.Log(k, s.Host.Addrs(), n, err, from, err2, time.Since(start))
			}
		})
	}
}
