package netnstests

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

// TestMain sweeps up after killed runs, builds the command at most once and
// fails on leaked goroutines.
func TestMain(m *testing.M) {
	flag.Parse()
	letCellsOverlap()
	sweepDeadRuns(os.TempDir())
	code := m.Run()
	removeBinary()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines leaked:", err)
		code = 1
	}
	os.Exit(code)
}

// letCellsOverlap allows eight subtests at once: cells mostly wait for the network.
func letCellsOverlap() {
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", "8")
	}
}

// runPrefix begins the names of temporary folders; the process ID follows it.
const runPrefix = "sally-netns-"

// sweepDeadRuns removes the folders of test processes that were killed. Their
// namespaces and commands need no sweeping: they died with the process.
func sweepDeadRuns(folder string) {
	found, _ := filepath.Glob(filepath.Join(folder, runPrefix+"*"))
	for _, path := range found {
		var pid int
		_, err := fmt.Sscanf(strings.TrimPrefix(filepath.Base(path), runPrefix), "%d", &pid)
		if err == nil && pid > 0 && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = os.RemoveAll(path)
		}
	}
}

// A lab is a small internet: public hosts a few microseconds from its middle, and
// sites behind an uplink with delay.
//
//	host --lan0-- home --wan0-- [carrier --wan0--] wire 20 ms -- internet -- node
type lab struct {
	t        testing.TB
	internet *namespace
	uplink   wireQuality // of the sites made from now on
	hosts    int         // how many places have been given an address
}

// A place is a host of the lab, with the routers between it and the internet.
type place struct {
	*namespace
	number  int // unique in the lab
	kind    natKind
	address netip.Addr   // the host's own
	public  []netip.Addr // how the internet sees it
	routers []*namespace // outermost first
}

// newLab makes an empty internet that is gone when t ends. It skips without root.
func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces and NAT rules need root; run `sudo go test ./netns-tests`")
	}
	l := &lab{t: t, uplink: wireQuality{delay: 20 * time.Millisecond}}
	l.internet = l.namespace("internet")
	return l
}

// must ends the test if a piece of the lab could not be made.
func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("building the lab: %v", err)
	}
}

func (l *lab) namespace(name string) *namespace {
	l.t.Helper()
	ns, err := newNamespace(name)
	l.must(err)
	l.t.Cleanup(ns.close)
	return ns
}

// server adds a well-connected public host with the given number of addresses.
func (l *lab) server(name string, addresses int) *place {
	l.t.Helper()
	l.hosts++
	p := &place{namespace: l.namespace(name), number: l.hosts, kind: kindNamed("none")}
	device := fmt.Sprintf("srv%d", l.hosts)
	l.must(join(l.internet, device, p.namespace, "wan0"))
	gateway := netip.AddrFrom4([4]byte{45, 10, byte(l.hosts), 1})
	l.must(l.internet.address(device, netip.PrefixFrom(gateway, 24)))
	for i := range addresses {
		addr := netip.AddrFrom4([4]byte{45, 10, byte(l.hosts), byte(10 + i)})
		l.must(p.namespace.address("wan0", netip.PrefixFrom(addr, 24)))
		p.public = append(p.public, addr)
	}
	p.address = p.public[0]
	l.must(p.defaultVia(gateway))
	return p
}

// site adds a host behind an uplink and the routers of its kind.
func (l *lab) site(name string, kind natKind) *place {
	l.t.Helper()
	l.hosts++
	chain := make([]*namespace, 0, len(kind.layers)+1)
	for i := range kind.layers {
		chain = append(chain, l.namespace(fmt.Sprintf("%s-router%d", name, i)))
	}
	p := &place{namespace: l.namespace(name), number: l.hosts, kind: kind, routers: chain}
	chain = append(chain, p.namespace)
	outside := l.connect(chain[0])
	p.public = []netip.Addr{outside}
	for i, layer := range kind.layers {
		inside := l.behind(chain[i], chain[i+1], i+1 == len(kind.layers))
		rules, err := newRuleset(chain[i], nftables.TableFamilyIPv4)
		l.must(err)
		layer(rules, natPlace{outside: outside, inside: inside})
		l.must(rules.commit())
		outside = inside
	}
	p.address = outside
	return p
}

// connect gives ns an uplink and a public address, which it returns.
func (l *lab) connect(ns *namespace) netip.Addr {
	l.t.Helper()
	device := fmt.Sprintf("up%d", l.hosts)
	w, err := newWire(l.internet, device, ns, "wan0", l.uplink)
	l.must(err)
	l.t.Cleanup(w.close)
	gateway := netip.AddrFrom4([4]byte{20, 10, byte(l.hosts), 1})
	outside := gateway.Next()
	l.must(l.internet.address(device, netip.PrefixFrom(gateway, 24)))
	l.must(ns.address("wan0", netip.PrefixFrom(outside, 24)))
	l.must(ns.defaultVia(gateway))
	return outside
}

// behind puts inner behind router and returns inner's address: on a home's LAN,
// which has the same addresses in every home, or between a carrier and a home.
func (l *lab) behind(router, inner *namespace, home bool) netip.Addr {
	l.t.Helper()
	gateway := netip.AddrFrom4([4]byte{100, 64, 0, 1})
	if home {
		gateway = netip.AddrFrom4([4]byte{192, 168, 1, 1})
	}
	inside := gateway.As4()
	inside[3] = 100
	l.must(join(router, "lan0", inner, "wan0"))
	l.must(router.address("lan0", netip.PrefixFrom(gateway, 24)))
	l.must(inner.address("wan0", netip.PrefixFrom(netip.AddrFrom4(inside), 24)))
	l.must(inner.defaultVia(gateway))
	return netip.AddrFrom4(inside)
}

// household makes two hosts behind one plain Linux router, on one LAN.
func (l *lab) household(name string) (a, b *place) {
	l.t.Helper()
	l.hosts++
	router := l.namespace(name + "-router")
	outside := l.connect(router)
	rules, err := newRuleset(router, nftables.TableFamilyIPv4)
	l.must(err)
	masquerade(rules, natPlace{})
	l.must(rules.commit())
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}
	l.must(router.links.LinkAdd(bridge))
	gateway := netip.AddrFrom4([4]byte{192, 168, 1, 1})
	l.must(router.address("lan0", netip.PrefixFrom(gateway, 24)))
	var hosts [2]*place
	for i := range hosts {
		host := &place{
			namespace: l.namespace(fmt.Sprintf("%s-host%d", name, i)), number: l.hosts, kind: linuxKind(),
			address: netip.AddrFrom4([4]byte{192, 168, 1, byte(100 + i)}),
			public:  []netip.Addr{outside}, routers: []*namespace{router},
		}
		port := fmt.Sprintf("port%d", i)
		l.must(join(router, port, host.namespace, "wan0"))
		l.must(router.attach(port, bridge))
		l.must(host.namespace.address("wan0", netip.PrefixFrom(host.address, 24)))
		l.must(host.defaultVia(gateway))
		hosts[i] = host
	}
	return hosts[0], hosts[1]
}
