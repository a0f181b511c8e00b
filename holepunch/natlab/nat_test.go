package natlab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

const (
	eim  = natlab.EndpointIndependent
	adm  = natlab.AddressDependent
	apdm = natlab.AddressAndPortDependent
)

// engine drives a NAT as a transcript: out and in are packets, after is time.
type engine struct {
	t   *testing.T
	nat *natlab.NAT
	now time.Time
}

func newEngine(t *testing.T, c natlab.NATConfig) *engine {
	t.Helper()
	if c.External == nil {
		c.External = []netip.Addr{netip.MustParseAddr("20.0.0.1")}
	}
	n, err := natlab.NewNAT(c)
	if err != nil {
		t.Fatal(err)
	}
	return &engine{t, n, time.Unix(1_000_000, 0)}
}

func (e *engine) after(d time.Duration) { e.now = e.now.Add(d) }

func (e *engine) try(src, dst string) (netip.AddrPort, error) {
	p, err := e.nat.Outbound(e.now, natlab.Packet{Src: ap(src), Dst: ap(dst), TTL: 64, Payload: []byte("x")})
	return p.Src, err
}

// out sends from the inside and returns the external endpoint.
func (e *engine) out(src, dst string) netip.AddrPort {
	e.t.Helper()
	ext, err := e.try(src, dst)
	if err != nil {
		e.t.Fatalf("%s to %s: %v", src, dst, err)
	}
	return ext
}

// in sends from outside and wants the error; without one, the packet must reach want.
func (e *engine) in(src string, ext netip.AddrPort, want string, wantErr error, why string) {
	e.t.Helper()
	p, err := e.nat.Inbound(e.now, natlab.Packet{Src: ap(src), Dst: ext, TTL: 64})
	if !errors.Is(err, wantErr) || err != nil && wantErr == nil {
		e.t.Errorf("%s to %v: %v, want %v: %s", src, ext, err, wantErr, why)
	}
	if err == nil && (p.Dst != ap(want) || p.Src != ap(src)) {
		e.t.Errorf("%s to %v: became %v to %v, want %s: %s", src, ext, p.Src, p.Dst, want, why)
	}
}

const (
	inside1, inside2 = "192.168.1.2:5000", "192.168.1.3:5000"
	remA1, remA2     = "9.0.0.1:1111", "9.0.0.1:2222"
	remB1            = "9.0.0.2:1111"
)

// TestNATMatrix: RFC 4787, section 4.1: endpoint-independent mapping "reuses the port mapping for
// subsequent packets sent from the same internal IP address and port (X:x) to any external IP
// address and port"; section 5 for the filters. Every combination, with every allocation.
func TestNATMatrix(t *testing.T) {
	allocations := []natlab.Allocation{natlab.Preserving, natlab.Sequential, natlab.Delta, natlab.Random, natlab.RandomRange, natlab.Block}
	for _, m := range []natlab.Behavior{eim, adm, apdm} {
		for _, f := range []natlab.Behavior{eim, adm, apdm} {
			for _, a := range allocations {
				t.Run(fmt.Sprintf("%v mapping/%v filtering/%v", m, f, a), func(t *testing.T) {
					e := newEngine(t, natlab.NATConfig{Mapping: m, Filtering: f, Allocation: a, Seed: 7})
					testMapping(e, m)
					testFiltering(e, f)
				})
			}
		}
	}
}

func testMapping(e *engine, m natlab.Behavior) {
	e.t.Helper()
	a1, a2, b1 := e.out(inside1, remA1), e.out(inside1, remA2), e.out(inside1, remB1)
	if again := e.out(inside1, remA1); again != a1 {
		e.t.Errorf("same remote: %v then %v", a1, again)
	}
	if got, want := a1 == a2, m != apdm; got != want {
		e.t.Errorf("other port of the same address: same mapping %v, want %v", got, want)
	}
	if got, want := a1 == b1, m == eim; got != want {
		e.t.Errorf("other address: same mapping %v, want %v", got, want)
	}
	if other := e.out(inside2, remA1); other == a1 {
		e.t.Errorf("two inside hosts share %v", a1)
	}
	e.in(remA1, a1, inside1, nil, "an answer is the inverse of the request")
	e.in(remB1, b1, inside1, nil, "an answer is the inverse of the request")
}

func testFiltering(e *engine, f natlab.Behavior) {
	e.t.Helper()
	const host, peer = "192.168.1.9:6000", "9.0.1.1:1111"
	ext := e.out(host, peer)
	want := func(least natlab.Behavior) error {
		if f <= least {
			return nil
		}
		return natlab.ErrFiltered
	}
	e.in(peer, ext, host, nil, "the endpoint that was sent to")
	e.in("9.0.1.1:2222", ext, host, want(adm), "other port of an address that was sent to")
	e.in("9.0.1.2:1111", ext, host, want(eim), "a stranger")
	e.in(peer, netip.AddrPortFrom(ext.Addr(), 999), "", natlab.ErrNoMapping, "no mapping there")
}

func TestAllocation(t *testing.T) {
	ports := func(c natlab.NATConfig, n int) []int {
		c.Mapping, c.Seed = apdm, 3
		e := newEngine(t, c)
		var out []int
		for i := range n {
			out = append(out, int(e.out(inside1, fmt.Sprintf("9.0.0.1:%d", 1000+i)).Port()))
		}
		return out
	}
	spread := func(ps []int) int {
		lo, hi := ps[0], ps[0]
		for _, p := range ps {
			lo, hi = min(lo, p), max(hi, p)
		}
		return hi - lo
	}
	rng := natlab.PortRange{Min: 2000, Max: 2099}
	if p := ports(natlab.NATConfig{}, 2); p[0] != 5000 || p[1] == 5000 {
		t.Errorf("preserving: %v, want 5000 first only", p)
	}
	for _, c := range []struct {
		cfg  natlab.NATConfig
		step int
	}{
		{natlab.NATConfig{Allocation: natlab.Sequential, Ports: rng}, 1},
		{natlab.NATConfig{Allocation: natlab.Delta, Ports: rng}, 2},
		{natlab.NATConfig{Allocation: natlab.Delta, Delta: 7, Ports: rng}, 7},
		{natlab.NATConfig{Allocation: natlab.Delta, Delta: -3, Ports: rng}, -3},
	} {
		p := ports(c.cfg, 12)
		for i := 1; i < len(p); i++ {
			if (p[i]-p[i-1]-c.step)%100 != 0 {
				t.Errorf("%v %d: %v, want steps of %d around 100 ports", c.cfg.Allocation, c.cfg.Delta, p, c.step)
				break
			}
		}
	}
	if p := ports(natlab.NATConfig{Allocation: natlab.Random}, 500); spread(p) < 50000 {
		t.Errorf("random: 500 ports within %d", spread(p))
	}
	for _, a := range []natlab.Allocation{natlab.RandomRange, natlab.Block} {
		if p := ports(natlab.NATConfig{Allocation: a, BlockSize: 256}, 200); spread(p) > 255 || spread(p) < 200 {
			t.Errorf("%v: 200 ports spread over %d, want nearly 256", a, spread(p))
		}
	}
}

func TestBlocksAreDisjointAndReused(t *testing.T) {
	for seed := range uint64(10) {
		testBlocks(t, seed)
	}
}

func testBlocks(t *testing.T, seed uint64) {
	t.Helper()
	c := natlab.NATConfig{Seed: seed, Allocation: natlab.Block, BlockSize: 10, Ports: natlab.PortRange{Min: 1000, Max: 1029}, Mapping: apdm}
	e := newEngine(t, c)
	seen := map[int]string{}
	for i := range 3 {
		host := fmt.Sprintf("192.168.1.%d:5000", i+1)
		for k := range 10 {
			block := (int(e.out(host, fmt.Sprintf("9.0.0.1:%d", k+1)).Port()) - 1000) / 10
			if o := seen[block]; o != "" && o != host {
				t.Fatalf("block %d serves %s and %s", block, o, host)
			}
			seen[block] = host
		}
		if _, err := e.try(host, remB1); !errors.Is(err, natlab.ErrExhausted) {
			t.Fatalf("11th port of a block of 10: %v", err)
		}
	}
	if _, err := e.try("192.168.1.4:5000", remA1); !errors.Is(err, natlab.ErrExhausted) {
		t.Fatalf("4th host with 3 blocks: %v", err)
	}
	e.after(2 * time.Minute)
	e.out("192.168.1.4:5000", remA1)
}

// TestLifetime: REQ-5, "A NAT UDP mapping timer MUST NOT expire in less than two minutes"; REQ-6,
// "The NAT mapping Refresh Direction MUST have a "NAT Outbound refresh behavior" of "True"".
func TestLifetime(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{})
	ext := e.out(inside1, remA1)
	e.after(119 * time.Second)
	e.in(remA1, ext, inside1, nil, "within the default of 2 minutes")
	e.out(inside1, remA1)
	e.after(119 * time.Second)
	e.in(remA1, ext, inside1, nil, "refreshed by the outbound packet")
	e.after(time.Second)
	e.in(remA1, ext, inside1, natlab.ErrNoMapping, "inbound packets do not refresh by default")

	e = newEngine(t, natlab.NATConfig{Lifetime: 30 * time.Second, InboundRefresh: true})
	ext = e.out(inside1, remA1)
	for range 10 {
		e.after(29 * time.Second)
		e.in(remA1, ext, inside1, nil, "inbound refresh")
	}
	e = newEngine(t, natlab.NATConfig{Filtering: apdm, Lifetime: 30 * time.Second, InboundRefresh: true})
	ext = e.out(inside1, remA1)
	for range 10 {
		e.after(29 * time.Second)
		e.in(remA1, ext, inside1, nil, "inbound packets refresh the permission too")
	}
	e.after(30 * time.Second)
	e.in(remA1, ext, inside1, natlab.ErrNoMapping, "idle")

	e = newEngine(t, natlab.NATConfig{AbsoluteLifetime: time.Minute})
	ext = e.out(inside1, remA1)
	for range 5 {
		e.after(10 * time.Second)
		e.out(inside1, remA1)
	}
	e.in(remA1, ext, inside1, nil, "younger than the absolute lifetime")
	e.after(10 * time.Second)
	e.in(remA1, ext, inside1, natlab.ErrNoMapping, "absolute lifetime, however busy")

	e = newEngine(t, natlab.NATConfig{Lifetime: -1})
	ext = e.out(inside1, remA1)
	e.after(1000 * time.Hour)
	e.in(remA1, ext, inside1, nil, "negative: for ever")
}

func TestFilterEntriesExpireOneByOne(t *testing.T) {
	for _, f := range []natlab.Behavior{adm, apdm} {
		e := newEngine(t, natlab.NATConfig{Filtering: f, Lifetime: time.Minute})
		ext := e.out(inside1, remA1)
		e.after(40 * time.Second)
		e.out(inside1, remB1)
		e.after(40 * time.Second)
		e.in(remB1, ext, inside1, nil, "fresh")
		e.in(remA1, ext, inside1, natlab.ErrFiltered, "the mapping lives, the permission has expired")
	}
}

// TestHairpin: REQ-9, "A NAT MUST support "Hairpinning"", a) "A NAT Hairpinning behavior MUST be
// "External source IP address and port"".
func TestHairpin(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{Hairpin: true, Allocation: natlab.Random})
	e1, e2 := e.out(inside1, remA1), e.out(inside2, remA1)
	p, err := e.nat.Outbound(e.now, natlab.Packet{Src: ap(inside1), Dst: e2})
	if err != nil || p.Src != e1 || p.Dst != ap(inside2) {
		t.Errorf("hairpin: %v to %v, %v; want %v to %s", p.Src, p.Dst, err, e1, inside2)
	}
	e = newEngine(t, natlab.NATConfig{Hairpin: true, Filtering: apdm})
	e1, e2 = e.out(inside1, remA1), e.out(inside2, remA1)
	if _, err := e.try(inside1, e2.String()); !errors.Is(err, natlab.ErrFiltered) {
		t.Errorf("the filter holds for hairpinned packets too: %v", err)
	}
	if _, err := e.try(inside2, e1.String()); err != nil {
		t.Errorf("after both have sent: %v", err)
	}
	e = newEngine(t, natlab.NATConfig{})
	if _, err := e.try(inside1, e.out(inside2, remA1).String()); !errors.Is(err, natlab.ErrNoHairpin) {
		t.Errorf("no hairpinning: %v", err)
	}
}

// TestStealing is the plain Linux masquerade: what knocks first takes the tuple.
func TestStealing(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{Stealing: true})
	ext := e.out(inside1, remA1)
	if ext.Port() != 5000 || e.out(inside1, remA2) != ext || e.out(inside1, remB1) != ext {
		t.Fatal("port preserved towards everyone while nothing collides")
	}
	const peer, other = "9.0.0.7:7777", "9.0.0.8:8888"
	e.in(peer, ext, "", natlab.ErrNoMapping, "the peer knocks first")
	stolen := e.out(inside1, peer)
	if stolen == ext {
		t.Error("the knock must have taken the tuple")
	}
	if e.out(inside1, other) != ext {
		t.Error("towards others the port is preserved")
	}
	e.in(peer, ext, "", natlab.ErrNoMapping, "the knocker's tuple is the router's")
	e.in(peer, stolen, inside1, nil, "the other port works")
	e.in(other, stolen, "", natlab.ErrNoMapping, "for that remote only")

	e = newEngine(t, natlab.NATConfig{Stealing: true})
	e.in(peer, ap("20.0.0.1:5000"), "", natlab.ErrNoMapping, "knock")
	e.after(30 * time.Second)
	if got := e.out(inside1, peer); got != ext {
		t.Errorf("the stolen tuple is free after 30 s: %v", got)
	}
	e.in(peer, ext, inside1, nil, "who sent first is let in")
}

func TestStealingTwoInsideHosts(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{Stealing: true})
	first, second := e.out(inside1, remA1), e.out(inside2, remA1)
	if first.Port() != 5000 || second.Port() == 5000 {
		t.Fatalf("%v and %v: the second host's port collides", first, second)
	}
	if got := e.out(inside2, remB1); got != second {
		t.Errorf("%v: an inside endpoint keeps the port it got, want %v", got, second)
	}
	e.in(remA1, first, inside1, nil, "first")
	e.in(remA1, second, inside2, nil, "second")
}

func TestExhaustion(t *testing.T) {
	for _, a := range []natlab.Allocation{natlab.Preserving, natlab.Sequential, natlab.Delta, natlab.Random} {
		e := newEngine(t, natlab.NATConfig{Mapping: apdm, Allocation: a, Ports: natlab.PortRange{Min: 5000, Max: 5009}})
		for i := range 10 {
			e.out(inside1, fmt.Sprintf("9.0.0.1:%d", i+1))
		}
		if _, err := e.try(inside1, remB1); !errors.Is(err, natlab.ErrExhausted) {
			t.Errorf("%v: 11th of 10 ports: %v", a, err)
		}
		e.after(2 * time.Minute)
		e.out(inside1, remB1)
	}
	e := newEngine(t, natlab.NATConfig{MaxSessions: 3})
	for i := range 3 {
		e.out(inside1, fmt.Sprintf("9.0.0.1:%d", i+1))
	}
	if _, err := e.try(inside1, remB1); !errors.Is(err, natlab.ErrExhausted) {
		t.Errorf("4th of 3 sessions: %v", err)
	}
	e.out(inside1, "9.0.0.1:1")
	if s, m := e.nat.Sessions(); s != 3 || m != 1 {
		t.Errorf("%d sessions, %d mappings; want 3, 1", s, m)
	}
	e.after(2 * time.Minute)
	e.out(inside1, remB1)
}

// TestStateIsBounded floods every table from both sides.
func TestStateIsBounded(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{Stealing: true, MaxSessions: 100})
	for i := range 5000 {
		_, _ = e.try(inside1, fmt.Sprintf("9.0.%d.%d:1", i/250, i%250+1))
		e.in(fmt.Sprintf("8.0.%d.%d:1", i/250, i%250+1), ap("20.0.0.1:9"), "", natlab.ErrNoMapping, "flood")
	}
	if s, m := e.nat.Sessions(); s > 100 || m > 100 {
		t.Errorf("%d sessions, %d mappings, want at most 100", s, m)
	}
	e.after(time.Hour)
	e.out(inside1, remA1)
	if s, m := e.nat.Sessions(); s != 1 || m != 1 {
		t.Errorf("after an hour: %d sessions, %d mappings, want 1", s, m)
	}
}

// TestPooling: REQ-2, "It is RECOMMENDED that a NAT have an "IP address pooling" behavior of "Paired"".
func TestPooling(t *testing.T) {
	pool := []netip.Addr{netip.MustParseAddr("20.0.0.1"), netip.MustParseAddr("20.0.0.2")}
	addrs := func(p natlab.Pooling) int {
		e := newEngine(t, natlab.NATConfig{External: pool, Pooling: p, Mapping: apdm, Allocation: natlab.Random, Seed: 1})
		seen := map[netip.Addr]bool{}
		for i := range 40 {
			seen[e.out(inside1, fmt.Sprintf("9.0.0.1:%d", i+1)).Addr()] = true
		}
		return len(seen)
	}
	if addrs(natlab.Paired) != 1 || addrs(natlab.Arbitrary) != 2 {
		t.Errorf("paired uses %d addresses, arbitrary %d; want 1, 2", addrs(natlab.Paired), addrs(natlab.Arbitrary))
	}
}

func TestNATRefuses(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{})
	for _, c := range [][2]string{{"[2a00::1]:1", "[2a00::2]:1"}, {"1.2.3.4:0", "1.2.3.5:1"}, {"1.2.3.4:1", "1.2.3.5:0"},
		{"[::ffff:1.2.3.4]:1", "1.2.3.5:1"}, {"20.0.0.1:5", "1.2.3.5:1"}} {
		if _, err := e.try(c[0], c[1]); !errors.Is(err, natlab.ErrFamily) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, err := e.nat.Inbound(e.now, natlab.Packet{}); !errors.Is(err, natlab.ErrFamily) {
		t.Errorf("the zero packet: %v", err)
	}
	ext := []netip.Addr{netip.MustParseAddr("20.0.0.1")}
	for _, c := range []natlab.NATConfig{
		{},
		{External: []netip.Addr{netip.MustParseAddr("::1")}},
		{External: ext, Ports: natlab.PortRange{Min: 5, Max: 4}},
		{External: ext, Mapping: 3},
		{External: ext, Allocation: 9},
		{External: ext, BlockSize: -1, Allocation: natlab.Block},
	} {
		if _, err := natlab.NewNAT(c); !errors.Is(err, natlab.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestReset(t *testing.T) {
	e := newEngine(t, natlab.NATConfig{})
	ext := e.out(inside1, remA1)
	e.nat.Reset()
	e.in(remA1, ext, "", natlab.ErrNoMapping, "rebooted")
	e.out(inside1, remA1)
	e.in(remA1, ext, inside1, nil, "mapped again")
}
