package holepunch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func iface(name string, prefixes ...string) Interface {
	i := Interface{Name: name, Flags: net.FlagUp}
	for _, p := range prefixes {
		i.Prefixes = append(i.Prefixes, netip.MustParsePrefix(p))
	}
	return i
}

func gatherConfig(interfaces ...Interface) GatherConfig {
	return GatherConfig{Interfaces: func() ([]Interface, error) { return interfaces, nil }, LocalPort: 4000}
}

func addrs(cands []Candidate) string {
	var out []string
	for _, c := range cands {
		out = append(out, c.Addr.Addr().String())
	}
	return strings.Join(out, " ")
}

// fortyContainers is a host whose useful interface comes last.
func fortyContainers() []Interface {
	var all []Interface
	for i := range 20 {
		all = append(all, iface(fmt.Sprintf("br-%012x", i), fmt.Sprintf("172.%d.0.1/16", 17+i%15), fmt.Sprintf("10.%d.0.1/24", i)))
	}
	uplink := iface("enp3s0", "192.168.1.5/24", "2001:db8:1::5/64", "2001:db8:1::6/64", "fd00::5/64", "fe80::5/64")
	uplink.Default = true
	return append(all, iface("wg0", "10.200.0.2/24"), iface("enp4s0", "192.168.9.5/24"), uplink)
}

func TestFortyContainersDoNotStarve(t *testing.T) {
	cands, err := HostCandidates(gatherConfig(fortyContainers()...))
	if err != nil {
		t.Fatal(err)
	}
	want := "192.168.1.5 2001:db8:1::5 fd00::5 192.168.9.5 10.200.0.2 172.17.0.1 10.0.0.1 172.18.0.1"
	if got := addrs(cands); got != want {
		t.Errorf("candidates\n%s\nwant\n%s", got, want)
	}
	for _, c := range cands {
		if c.Kind != Host || c.Addr.Port() != 4000 {
			t.Errorf("candidate %v", c)
		}
	}
}

func TestHostCandidatesAreBounded(t *testing.T) {
	var all []Interface
	for i := range 300 {
		all = append(all, iface(fmt.Sprintf("eth%d", i), fmt.Sprintf("10.%d.%d.1/24", i/250, i%250), fmt.Sprintf("10.%d.%d.2/24", 100+i/250, i%250)))
	}
	cands, _ := HostCandidates(gatherConfig(all...))
	if len(cands) != MaxHostCandidates {
		t.Errorf("%d candidates", len(cands))
	}
	many := iface("eth0")
	for i := range 200 {
		many.Prefixes = append(many.Prefixes, netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/64", i+1)))
	}
	cands, _ = HostCandidates(gatherConfig(many))
	if got := addrs(cands); got != "10.0.0.1 2001:db8::1 10.0.0.2 10.0.0.3 10.0.0.4" {
		t.Errorf("of one interface with 400 addresses: %s", got)
	}
}

func TestHostCandidatesLeaveOut(t *testing.T) {
	down, lo := iface("eth1", "192.0.2.7/24"), iface("lo", "127.0.0.1/8", "::1/128")
	down.Flags, lo.Flags = net.FlagBroadcast, net.FlagUp|net.FlagLoopback
	bare := Interface{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")}} // as an emulated host gives it
	cands, _ := HostCandidates(gatherConfig(lo, down, iface("eth0", "169.254.3.4/16", "fe80::1/64", "192.0.2.5/24"), bare))
	if got := addrs(cands); got != "192.0.2.5 192.0.2.9" {
		t.Errorf("candidates %s", got)
	}
}

func TestGather(t *testing.T) {
	eth := iface("eth0", "192.168.1.5/24", "2001:db8::5/64")
	observed := []netip.AddrPort{netip.MustParseAddrPort("[::ffff:198.51.100.1]:4567"), netip.MustParseAddrPort("198.51.100.1:4567"),
		netip.MustParseAddrPort("[2001:db8::5]:4000"), netip.MustParseAddrPort("127.0.0.1:4000")}
	for _, tt := range []struct {
		name   string
		change func(c *GatherConfig)
		want   string
	}{
		{"all", func(*GatherConfig) {}, "[server-reflexive 198.51.100.1:4567 server-reflexive [2001:db8::5]:4000 host 192.168.1.5:4000]"},
		{"nothing observed", func(c *GatherConfig) { c.Observed = nil }, "[host 192.168.1.5:4000 host [2001:db8::5]:4000]"},
		{"public only", func(c *GatherConfig) { c.Policy = PublicOnly }, "[server-reflexive 198.51.100.1:4567 server-reflexive [2001:db8::5]:4000]"},
		{"relay only", func(c *GatherConfig) { c.Policy = RelayOnly }, "[]"},
		{"IPv4 only", func(c *GatherConfig) { c.Families = IPv4 }, "[server-reflexive 198.51.100.1:4567 host 192.168.1.5:4000]"},
		{"bound to all", func(c *GatherConfig) { c.LocalAddr, c.Observed = netip.IPv6Unspecified(), nil }, "[host 192.168.1.5:4000 host [2001:db8::5]:4000]"},
		{"bound to one", func(c *GatherConfig) { c.LocalAddr, c.Observed = netip.MustParseAddr("192.168.1.5"), nil }, "[host 192.168.1.5:4000]"},
		{"low port", func(c *GatherConfig) { c.LocalPort, c.Observed = 443, nil }, "[]"},
	} {
		cfg := gatherConfig(eth)
		cfg.Observed = observed
		tt.change(&cfg)
		cands, err := Gather(cfg)
		if got := fmt.Sprint(cands); err != nil || got != tt.want {
			t.Errorf("%s: %s, %v\nwant %s", tt.name, got, err, tt.want)
		}
	}
	flood := gatherConfig(fortyContainers()...)
	for i := range 100 {
		flood.Observed = append(flood.Observed, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(2000+i)))
	}
	if cands, _ := Gather(flood); len(cands) > MaxCandidates || cands[16].Kind != Host {
		t.Errorf("%d candidates", len(cands))
	}
	broken := errors.New("netlink")
	cands, err := Gather(GatherConfig{LocalPort: 4000, Observed: observed[:1], Interfaces: func() ([]Interface, error) { return nil, broken }})
	if !errors.Is(err, broken) || len(cands) != 1 {
		t.Errorf("without interfaces: %v, %v", cands, err)
	}
}

func TestLocalPrefixes(t *testing.T) {
	all := append(fortyContainers(), iface("ppp0", "192.0.2.1/32"))
	got, err := LocalPrefixes(func() ([]Interface, error) { return all, nil })
	if want := "[10.200.0.0/24 192.168.9.0/24 192.168.1.0/24 2001:db8:1::/64 fd00::/64]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
}

// The machine that runs the tests: whatever it has, what we tell of it can be used.
func TestSystemInterfaces(t *testing.T) {
	all, err := SystemInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(i Interface) bool { return len(i.Prefixes) > 0 }) {
		t.Skip("no interface of this machine has an address")
	}
	cands, err := HostCandidates(GatherConfig{LocalPort: 4000})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cands {
		if err := Punchable(c.Addr); err != nil {
			t.Errorf("%v: %v", c, err)
		}
	}
	t.Logf("interfaces %v, candidates %v", all, cands)
}

func TestPunchable(t *testing.T) {
	for _, good := range []string{"192.0.2.1:1024", "10.0.0.1:4000", "192.168.1.1:4000", "172.16.0.1:4000", "100.64.0.1:4000", "8.8.8.8:65535",
		"[::ffff:8.8.8.8]:4000", "[2001:db8::1]:4000", "[2a00::1]:4000", "[fd00::1]:4000"} {
		if err := Punchable(netip.MustParseAddrPort(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"8.8.8.8:1023", "8.8.8.8:0", "0.0.0.0:4000", "0.1.2.3:4000", "127.0.0.1:4000", "127.255.255.255:4000",
		"169.254.169.254:4000", "192.0.0.8:4000", "192.88.99.1:4000", "224.0.0.1:4000", "239.255.255.255:4000", "240.0.0.1:4000", "255.255.255.255:4000",
		"[::]:4000", "[::1]:4000", "[::8.8.8.8]:4000", "[::ffff:127.0.0.1]:4000", "[::ffff:224.0.0.1]:4000", "[64:ff9b::8.8.8.8]:4000", "[64:ff9b:1::1]:4000",
		"[100::1]:4000", "[2001::1]:4000", "[2001:10::1]:4000", "[2002:808:808::1]:4000", "[5f00::1]:4000", "[fe80::1]:4000", "[fe80::1%eth0]:4000", "[2a00::1%eth0]:4000", "[fec0::1]:4000", "[ff02::1]:4000"} {
		if err := Punchable(netip.MustParseAddrPort(bad)); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := Punchable(netip.AddrPort{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("no address: %v", err)
	}
}
