package natlab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// tape records what a tap sees.
type tape struct {
	mu     sync.Mutex
	events []natlab.Event
}

func (r *tape) record(e natlab.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *tape) take() []natlab.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// drops returns "who: why" of every drop since the last call.
func (r *tape) drops() string {
	var out []string
	for _, e := range r.take() {
		if e.Kind == natlab.Dropped {
			out = append(out, e.At+": "+strings.TrimPrefix(e.Err.Error(), "natlab: "))
		}
	}
	return strings.Join(out, ", ")
}

func (r *tape) want(t *testing.T, want, why string) {
	t.Helper()
	if got := r.drops(); got != want {
		t.Errorf("%s: drops %q, want %q", why, got, want)
	}
}

// say sends one datagram and reports whether and from where it arrives within a second.
func say(t *testing.T, from, to net.PacketConn, dst netip.AddrPort) (netip.AddrPort, bool) {
	t.Helper()
	if _, err := from.WriteTo([]byte("hi"), net.UDPAddrFromAddrPort(dst)); err != nil {
		t.Fatalf("to %v: %v", dst, err)
	}
	_ = to.SetReadDeadline(time.Now().Add(time.Second))
	_, src, err := to.ReadFrom(make([]byte, 10))
	if err != nil {
		return netip.AddrPort{}, false
	}
	return src.(*net.UDPAddr).AddrPort(), true
}

func at(h *natlab.Host, c net.PacketConn) netip.AddrPort { return udpAddr(h, c).AddrPort() }

// TestLowTTLOpensTheNearNATOnly: the trick the TTL is there for.
func TestLowTTLOpensTheNearNATOnly(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		left, err := in.Site(natlab.SitePortRestricted, "left")
		if err != nil {
			t.Fatal(err)
		}
		right, err := in.Site(natlab.SiteLinux, "right")
		if err != nil {
			t.Fatal(err)
		}
		srv, lc, rc := listen(t, a, ":0"), listen(t, left.Host, ":0"), listen(t, right.Host, ":0")
		le, _ := say(t, lc, srv, at(a, srv))
		re, _ := say(t, rc, srv, at(a, srv))
		_, _ = lc.(natlab.TTLWriter).WriteToTTL([]byte("x"), net.UDPAddrFromAddrPort(re), 3)
		time.Sleep(time.Second)
		if from, ok := say(t, rc, lc, le); !ok || from != re {
			t.Errorf("the right side's first packet came from %v, %v; want %v: its tuple was left alone", from, ok, re)
		}
	})
}

func TestDoubleNATAndHairpin(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		carrierNAT, _ := natlab.SiteCarrier.NAT()
		carrier := in.Router("carrier", natlab.RouterConfig{NAT: &carrierNAT, Inside: netip.MustParsePrefix("100.64.0.0/10")})
		x, err := carrier.Site(natlab.SiteFullCone, "x")
		if err != nil {
			t.Fatal(err)
		}
		y, err := carrier.Site(natlab.SiteFullCone, "y")
		if err != nil {
			t.Fatal(err)
		}
		if x.Host.Addr() != y.Host.Addr() {
			t.Errorf("homes number alike: %v, %v", x.Host.Addr(), y.Host.Addr())
		}
		srv, cx, cy := listen(t, a, ":0"), listen(t, x.Host, ":0"), listen(t, y.Host, ":0")
		ex, _ := say(t, cx, srv, at(a, srv))
		ey, _ := say(t, cy, srv, at(a, srv))
		if ex.Addr() != carrier.External()[0] || ex.Addr() != ey.Addr() || ex == ey {
			t.Fatalf("seen as %v and %v behind %v", ex, ey, carrier.External())
		}
		say(t, cx, cy, ey) // opens x's side of the carrier
		r.want(t, "carrier: filtered", "the carrier filters hairpinned packets too")
		if from, ok := say(t, cy, cx, ex); !ok || from != ey {
			t.Errorf("hairpin at the carrier: from %v, %v; want %v", from, ok, ey)
		}
		events := r.take()
		if last := events[len(events)-1]; last.Packet.TTL != natlab.DefaultTTL-3 {
			t.Errorf("TTL %d, want %d: y's home, the carrier once, x's home", last.Packet.TTL, natlab.DefaultTTL-3)
		}
		say(t, cx, cy, netip.AddrPortFrom(x.Home.External()[0], 1))
		r.want(t, "x-home: no hairpinning", "the home router does not")
	})
}

func TestIPv6(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		carrier := in.Router("carrier", natlab.RouterConfig{IPv6: true})
		home := carrier.Router("home", natlab.RouterConfig{IPv6: true, NAT: &natlab.NATConfig{},
			Firewall6: &natlab.FirewallConfig{Mode: natlab.FirewallStateful}})
		h := home.Host("h", natlab.HostConfig{IPv6: true})
		flat := carrier.Host("flat", natlab.HostConfig{IPv6: true})
		ch, cf, ca := listen(t, h, ":0"), listen(t, flat, ":0"), listen(t, a, ":0")
		on := func(h *natlab.Host, c net.PacketConn) netip.AddrPort {
			return netip.AddrPortFrom(h.Addrs()[1].Addr(), c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		}
		say(t, ca, ch, on(h, ch))
		r.want(t, "home: filtered", "unsolicited IPv6 at a stateful firewall")
		if from, ok := say(t, ch, ca, on(a, ca)); !ok || from != on(h, ch) {
			t.Errorf("out: from %v, %v; want the host's own address %v", from, ok, on(h, ch))
		}
		if _, ok := say(t, ca, ch, on(h, ch)); !ok {
			t.Error("the answer was not let in")
		}
		home.Reboot()
		say(t, ca, ch, on(h, ch))
		r.want(t, "home: filtered", "the firewall forgot the flow")
		if from, ok := say(t, ca, cf, on(flat, cf)); !ok || from != on(a, ca) {
			t.Errorf("no firewall: %v %v", from, ok)
		}
		if _, ok := say(t, ca, cf, at(flat, cf)); !ok {
			t.Error("routed IPv4 does not arrive")
		}
	})
}

func TestRebootRenumberMove(t *testing.T) {
	var r tape
	bubble(t, natlab.Config{Tap: r.record}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		site, err := in.Site(natlab.SitePortRestricted, "site")
		if err != nil {
			t.Fatal(err)
		}
		srv, c := listen(t, a, ":0"), listen(t, site.Host, ":0")
		first, _ := say(t, c, srv, at(a, srv))
		site.Home.Reboot()
		if _, mappings := site.Home.Sessions(); mappings != 0 {
			t.Errorf("%d mappings after a reboot", mappings)
		}
		say(t, srv, c, first)
		r.want(t, "site-home: no mapping", "reboot")
		site.Home.Renumber()
		say(t, srv, c, first)
		r.want(t, "a: no route", "nobody has the old address")
		second, _ := say(t, c, srv, at(a, srv))
		if second.Addr() == first.Addr() || second.Addr() != site.Home.External()[0] {
			t.Errorf("renumbered from %v to %v", first, second)
		}
		site.Host.Move(in, natlab.HostConfig{})
		third, ok := say(t, c, srv, at(a, srv))
		if !ok || third.Addr() != site.Host.Addr() || third.Addr().IsPrivate() {
			t.Errorf("moved: from %v, %v; want %v", third, ok, site.Host.Addr())
		}
		say(t, srv, c, second)
		r.want(t, "site-home: no route", "the old network does not know the host any more")
		site.Host.Interfaces()[0].SetAddrs(netip.MustParsePrefix("20.9.9.9/24"))
		if fourth, ok := say(t, c, srv, at(a, srv)); !ok || fourth.Addr().String() != "20.9.9.9" {
			t.Errorf("address changed: from %v, %v", fourth, ok)
		}
		site.Host.Interfaces()[0].Detach()
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(at(a, srv))); err == nil {
			t.Error("a host without network sends")
		}
	})
}

func TestTwoInterfaces(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		site, err := in.Site(natlab.SiteFullCone, "site")
		if err != nil {
			t.Fatal(err)
		}
		mobile := in.Router("mobile", natlab.RouterConfig{NAT: &natlab.NATConfig{}, Inside: netip.MustParsePrefix("10.9.0.0/16")})
		lte := site.Host.Attach(mobile, natlab.HostConfig{})
		srv := listen(t, a, ":0")
		free, bound := listen(t, site.Host, ":0"), listen(t, site.Host, lte.Addrs()[0].Addr().String()+":0")
		if from, _ := say(t, free, srv, at(a, srv)); from.Addr() != site.Home.External()[0] {
			t.Errorf("default route: from %v, want the first interface", from)
		}
		if from, _ := say(t, bound, srv, at(a, srv)); from.Addr() != mobile.External()[0] {
			t.Errorf("bound to the second interface: from %v", from)
		}
		peer := mobile.Host("peer", natlab.HostConfig{})
		cp := listen(t, peer, ":0")
		if from, _ := say(t, free, cp, at(peer, cp)); from.Addr() != lte.Addrs()[0].Addr() {
			t.Errorf("on-link at the second interface: from %v", from)
		}
		site.Host.Interfaces()[0].Detach()
		if from, _ := say(t, free, srv, at(a, srv)); from.Addr() != mobile.External()[0] {
			t.Errorf("first interface gone: from %v", from)
		}
	})
}

func TestContainerAddresses(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		local := []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16"), netip.MustParsePrefix("172.18.0.1/16")}
		h := in.Host("h", natlab.HostConfig{Local: local})
		other := in.Host("other", natlab.HostConfig{Local: local})
		if got := h.Addrs(); len(got) != 3 || got[1] != local[0] {
			t.Errorf("addresses %v", got)
		}
		ch, co := listen(t, h, ":7"), listen(t, other, ":7")
		if from, ok := say(t, co, co, ap("172.17.0.1:7")); !ok || from != ap("172.17.0.1:7") {
			t.Errorf("a container address is the host's own: %v %v", from, ok)
		}
		_ = ch.SetReadDeadline(time.Now())
		if _, _, err := ch.ReadFrom(nil); err == nil {
			t.Error("another host's container address reaches us")
		}
	})
}

// TestManySites runs 200 sites in one bubble: each is seen by the server and answered.
func TestManySites(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
		p := newProber(t, in)
		defer p.close()
		done := make(chan string)
		kinds := []natlab.SiteKind{natlab.SiteFullCone, natlab.SiteCarrier, natlab.SiteSymmetric, natlab.SiteNone, natlab.SiteLinux}
		for i := range 200 {
			site, err := in.Site(kinds[i%len(kinds)], fmt.Sprint("site", i))
			if err != nil {
				t.Fatal(err)
			}
			c := listen(t, site.Host, ":0")
			go func() { done <- p.ask(c, 0, 0) }()
		}
		seen := map[netip.Addr]bool{}
		for range 200 {
			seen[netip.MustParseAddrPort(<-done).Addr()] = true
		}
		if len(seen) != 200 {
			t.Errorf("%d external addresses, want 200", len(seen))
		}
	})
}

// TestDeterminism: same seed, same tap trace; another seed, another trace.
func TestDeterminism(t *testing.T) {
	trace := func(seed uint64) []natlab.Event {
		var r tape
		link := natlab.LinkConfig{Latency: 10 * time.Millisecond, Jitter: 9 * time.Millisecond, Loss: 0.1, Rate: 1e6}
		bubble(t, natlab.Config{Seed: seed, Tap: r.record, Link: link}, func(t *testing.T, in *natlab.Internet, a, b *natlab.Host) {
			for i, kind := range natlab.SiteKinds() {
				site, err := in.Site(kind, string(kind))
				if err != nil {
					t.Fatal(err)
				}
				c := listen(t, site.Host, ":0")
				for k := range 40 {
					for _, dst := range []*natlab.Host{a, b} {
						_, _ = c.WriteTo(make([]byte, i*10), &net.UDPAddr{IP: dst.Addr().AsSlice(), Port: 1000 + k})
					}
					time.Sleep(time.Duration(k) * time.Millisecond)
				}
			}
			time.Sleep(time.Second)
		})
		events := r.take()
		for i := range events {
			events[i].Time = events[i].Time.Round(0) // without the monotonic clock
		}
		return events
	}
	first, again, other := trace(1), trace(1), trace(2)
	if len(first) < 1000 || !reflect.DeepEqual(first, again) {
		t.Errorf("%d and %d events differ with the same seed", len(first), len(again))
	}
	if reflect.DeepEqual(first, other) {
		t.Error("the seed does not matter")
	}
}

func TestSiteNames(t *testing.T) {
	for _, k := range natlab.SiteKinds() {
		if got, err := natlab.ParseSiteKind(string(k)); got != k || err != nil {
			t.Errorf("%s: %s, %v", k, got, err)
		}
	}
	_, err := natlab.ParseSiteKind("bogus")
	if !errors.Is(err, natlab.ErrConfig) || !strings.Contains(err.Error(), "port-restricted") {
		t.Errorf("unknown name: %v, want the known ones listed", err)
	}
	in := natlab.New(natlab.Config{})
	defer func() { _ = in.Close() }()
	if _, err = in.Site("bogus", "x"); !errors.Is(err, natlab.ErrConfig) {
		t.Errorf("unknown site: %v", err)
	}
}

func TestImpossibleTopologiesPanic(t *testing.T) {
	in := natlab.New(natlab.Config{})
	defer func() { _ = in.Close() }()
	taken := in.Host("h", natlab.HostConfig{}).Addrs()
	v4 := in.Router("v4", natlab.RouterConfig{NAT: &natlab.NATConfig{}})
	for name, f := range map[string]func(){
		"address taken":      func() { in.Host("x", natlab.HostConfig{Addrs: taken}) },
		"no IPv6 inside":     func() { v4.Host("x", natlab.HostConfig{IPv6: true}) },
		"no IPv6 to route":   func() { v4.Router("x", natlab.RouterConfig{IPv6: true, NAT: &natlab.NATConfig{}}) },
		"invalid NAT":        func() { in.Router("x", natlab.RouterConfig{NAT: &natlab.NATConfig{Mapping: 7}}) },
		"invalid firewall":   func() { in.Router("x", natlab.RouterConfig{Firewall4: &natlab.FirewallConfig{Mode: 7}}) },
		"no room for a /24":  func() { v4.Router("x", natlab.RouterConfig{}) },
		"a foreign Internet": func() { in.Host("x", natlab.HostConfig{}).Attach(natlab.New(natlab.Config{}), natlab.HostConfig{}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	if !in.Host("after", natlab.HostConfig{}).Addr().IsValid() {
		t.Error("a panic left the lab locked")
	}
}
