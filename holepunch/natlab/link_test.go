package natlab_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

func TestLatencyAndJitter(t *testing.T) {
	link := natlab.LinkConfig{Latency: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}
	bubble(t, natlab.Config{Link: link}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		ca, cb := listen(t, a, ":0"), listen(t, b, ":0")
		lo, hi := time.Hour, time.Duration(0)
		for range 100 {
			start := time.Now()
			say(t, ca, cb, at(b, cb))
			lo, hi = min(lo, time.Since(start)), max(hi, time.Since(start))
		}
		if lo < 20*time.Millisecond || hi > 30*time.Millisecond || hi-lo < 5*time.Millisecond {
			t.Errorf("two links of 10–15 ms: %v to %v", lo, hi)
		}
		b.Link().Set(natlab.LinkConfig{Latency: 100 * time.Millisecond})
		a.Link().Set(natlab.LinkConfig{})
		start := time.Now()
		say(t, ca, cb, at(b, cb))
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("after the change: %v, want 100 ms", d)
		}
		b.Link().Set(link)
		for i := range byte(100) { // jitter keeps the order
			_, _ = cb.WriteTo([]byte{i}, udpAddr(a, ca))
		}
		buf := make([]byte, 1)
		for i := range byte(100) {
			if _, _, err := ca.ReadFrom(buf); err != nil || buf[0] != i {
				t.Fatalf("packet %d came as %d, %v", buf[0], i, err)
			}
		}
	})
}

func TestLossCutAndMTU(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		ca, cb := listen(t, a, ":0"), listen(t, b, ":0")
		b.Link().Set(natlab.LinkConfig{Loss: 0.3})
		lost := 0
		for range 1000 {
			if _, ok := say(t, ca, cb, at(b, cb)); !ok {
				lost++
			}
		}
		if lost < 200 || lost > 400 || strings.Count(r.drops(), "b: lost on the link") != lost {
			t.Errorf("%d of 1000 lost at 30 %%", lost)
		}
		b.Link().Set(natlab.LinkConfig{MTU: 29, Latency: time.Second})
		say(t, ca, cb, at(b, cb))
		r.want(t, "b: larger than the MTU", "30 bytes on a path of 29")
		b.Link().Set(natlab.LinkConfig{Latency: time.Second})
		b.Link().Cut()
		say(t, ca, cb, at(b, cb))
		r.want(t, "b: link is cut", "cut")
		b.Link().Restore()
		time.AfterFunc(500*time.Millisecond, b.Link().Cut)
		say(t, ca, cb, at(b, cb))
		time.Sleep(time.Second)
		r.want(t, "b: link is cut", "cut while the packet is under way")
		b.Link().Restore()
		b.Link().Set(natlab.LinkConfig{})
		if _, ok := say(t, ca, cb, at(b, cb)); !ok {
			t.Error("restored, but mute")
		}
	})
}

func TestRate(t *testing.T) {
	var r tape
	link := natlab.LinkConfig{Rate: 8 * 1028 * 1000} // a packet of 1,028 bytes each millisecond
	bubble(t, natlab.Config{Tap: r.record, Link: link}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		b.Link().Set(natlab.LinkConfig{})
		ca, cb := listen(t, a, ":0"), listen(t, b, ":0")
		start := time.Now()
		for range 200 {
			_, _ = ca.WriteTo(make([]byte, 1000), udpAddr(b, cb))
		}
		synctest.Wait()
		if got := strings.Count(r.drops(), "a: queue full"); got != 99 {
			t.Errorf("%d dropped, want 99: the queue holds 100 ms and the packet after", got)
		}
		buf := make([]byte, 1000)
		for range 101 {
			if _, _, err := cb.ReadFrom(buf); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 101*time.Millisecond {
			t.Errorf("101 packets took %v, want 101 ms", d)
		}
	})
}

func TestTTL(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		site, err := in.Site(natlab.SiteFullCone, "site")
		if err != nil {
			t.Fatal(err)
		}
		inner, outer := listen(t, site.Host, ":0"), listen(t, a, ":0")
		ext, _ := say(t, inner, outer, at(a, outer))
		r.drops()
		send := func(from net.PacketConn, to netip.AddrPort, ttl int) {
			_, err := from.(natlab.TTLWriter).WriteToTTL([]byte("x"), net.UDPAddrFromAddrPort(to), ttl)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		// Outbound: the home router and 4 routers of the internet; inbound the same.
		for ttl, want := range map[int]string{1: "site-home: TTL exceeded", 2: "site-home: TTL exceeded", 5: "site-home: TTL exceeded", 6: ""} {
			send(inner, at(a, outer), ttl)
			r.want(t, want, fmt.Sprint("outbound, TTL ", ttl))
		}
		for ttl, want := range map[int]string{4: "a: TTL exceeded", 5: "site-home: TTL exceeded", 6: ""} {
			send(outer, ext, ttl)
			r.want(t, want, fmt.Sprint("inbound, TTL ", ttl))
		}
	})
}

// TestFastPacketOvertakesSlow: a packet due earlier than all others on their way is not late.
func TestFastPacketOvertakesSlow(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, b *natlab.Host) {
		far := in.Host("far", natlab.HostConfig{Link: natlab.LinkConfig{Latency: time.Second}})
		ca, cb, cf := listen(t, a, ":0"), listen(t, b, ":0"), listen(t, far, ":0")
		_, _ = cf.WriteTo([]byte("slow"), udpAddr(a, ca))
		start := time.Now()
		if _, ok := say(t, ca, cb, at(b, cb)); !ok || time.Since(start) != 20*time.Millisecond {
			t.Errorf("arrived: %v, after %v; want 20 ms", ok, time.Since(start))
		}
	})
}

// TestRenumberedUnderWay: a packet to an address that the host gives up meanwhile is lost.
func TestRenumberedUnderWay(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		ca, cb := listen(t, a, ":0"), listen(t, b, ":0")
		time.AfterFunc(15*time.Millisecond, func() { b.Interfaces()[0].SetAddrs(netip.MustParsePrefix("20.9.9.9/24")) })
		say(t, ca, cb, at(b, cb))
		r.want(t, "b: no route", "the address went while the packet was on b's link")
	})
}
