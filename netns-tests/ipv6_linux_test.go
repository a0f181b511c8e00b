package netnstests

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
)

// addIPv6 gives a site with one router, or a server, a global IPv6 address beside
// what it has. A home's router is a stateful firewall and no NAT. It returns the
// host's address.
func (l *lab) addIPv6(p *place) netip.Addr {
	l.t.Helper()
	uplink := fmt.Sprintf("2a0a:10:%x00::", p.number)
	gateway := netip.MustParseAddr(uplink + "1")
	outside := netip.MustParseAddr(uplink + "2")
	edge, device := p.namespace, fmt.Sprintf("srv%d", p.number)
	if len(p.routers) == 1 {
		edge, device = p.routers[0], fmt.Sprintf("up%d", p.number)
	}
	l.must(l.internet.address(device, netip.PrefixFrom(gateway, 64)))
	l.must(edge.address("wan0", netip.PrefixFrom(outside, 64)))
	l.must(edge.defaultVia(gateway))
	if edge == p.namespace {
		return outside
	}
	lan := fmt.Sprintf("2a0a:10:%x01::", p.number)
	inner, host := netip.MustParseAddr(lan+"1"), netip.MustParseAddr(lan+"100")
	l.must(edge.address("lan0", netip.PrefixFrom(inner, 64)))
	l.must(p.namespace.address("wan0", netip.PrefixFrom(host, 64)))
	l.must(p.defaultVia(inner))
	l.must(l.internet.routeVia(netip.PrefixFrom(inner, 64).Masked(), outside))
	rules, err := newRuleset(edge, nftables.TableFamilyIPv6)
	l.must(err)
	stateful(rules)
	l.must(rules.commit())
	return host
}

// The IPv6 firewall keeps uninvited packets out and lets two sides meet that knock at each other.
func TestIPv6FirewallIsStateful(t *testing.T) {
	l := newLab(t)
	left, right := l.site("left", kindNamed("apdm")), l.site("right", kindNamed("apdm"))
	a := open(t, left, netip.AddrPortFrom(l.addIPv6(left), 0))
	b := open(t, right, netip.AddrPortFrom(l.addIPv6(right), 0))
	p := &prober{t: t, site: left}
	p.send(a, endpoint(b), "uninvited")
	_, in := p.receive(b, "uninvited", silence)
	want(t, "an uninvited packet gets in", in, false)
	heard := make(chan bool, 1)
	go func() { heard <- knock(a, endpoint(b), patience) }()
	want(t, "the right side hears the left", knock(b, endpoint(a), patience), true)
	want(t, "the left side hears the right", <-heard, true)
}

// Where both sides have IPv6, no IPv4 NAT matters: two peers behind
// address-and-port-dependent mapping are direct.
func TestIPv6(t *testing.T) {
	m := newMeeting(t, "")
	left, right := m.lab.site("left", kindNamed("apdm")), m.lab.site("right", kindNamed("apdm"))
	m.lab.addIPv6(left)
	m.lab.addIPv6(right)
	r := m.reachesDirectly(t, left, right)
	pongs := r.all("pong")
	if len(pongs) == 0 {
		r.fatalf("no pong")
	}
	last := pongs[len(pongs)-1]
	host, _, err := net.SplitHostPort(last.Path.Remote)
	if err != nil || !strings.Contains(host, ":") {
		r.fatalf("the direct path is not over IPv6: %s", last.line)
	}
	t.Log(times(r))
}
