package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// volunteer is what `sally relay` runs: a TURN server and a client that offers it
// to the node.
type volunteer struct {
	host   *natlab.Host
	turn   *relayserver.Server
	client *rendezvous.Client
	listed chan rendezvous.VolunteerStatus
}

const volunteerPort = 3500

func (l *lab) volunteer(host *natlab.Host, name string) *volunteer {
	l.t.Helper()
	v := &volunteer{host: host, listed: make(chan rendezvous.VolunteerStatus, 16)}
	secret := []byte("the secret of " + name)
	conns, at := listenAll(l.t, host, volunteerPort)
	v.turn = startTURN(l.t, host, conns, string(secret))
	l.t.Cleanup(func() { v.turn.Close() })
	client, err := rendezvous.New(rendezvous.Config{
		Identity: newIdentity(l.t), Node: l.node.url, DialContext: dialFrom(l.t, host),
		Volunteer:   &rendezvous.Volunteer{Name: name, Addrs: at, Secret: secret},
		OnVolunteer: func(s rendezvous.VolunteerStatus) { v.listed <- s },
	})
	check(l.t, err)
	v.client = client
	go client.Run(l.t.Context()) // ends with the volunteer or the test
	l.t.Cleanup(func() { client.Close() })
	return v
}

// waitListed waits until the node has tried the relay and lists it.
func (v *volunteer) waitListed(t *testing.T) {
	t.Helper()
	for {
		select {
		case s := <-v.listed:
			if len(s.Addrs) > 0 {
				return
			}
			t.Logf("not listed: %s", s.Reason)
		case <-time.After(2 * time.Minute):
			t.Fatal("the node does not list the volunteer")
		}
	}
}

// crash takes the volunteer off the net without a word.
func (v *volunteer) crash() { v.host.Link().Cut() }

// TestVolunteerRelay: "Two behind address-and-port-dependent NATs [link] through a
// volunteer relay", which the path names.
func TestVolunteerRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(false)
		v := l.volunteer(l.net.Host("volunteer", natlab.HostConfig{}), "good soul")
		v.waitListed(t)
		a, b := l.site(natlab.SiteSymmetric, "a"), l.site(natlab.SiteSymmetric, "b")
		l.ready(a, b)
		start := time.Now()
		near, far := linked(t, a, b)
		until(t, peerconn.PathRelay, 10*time.Second, near, far)
		t.Logf("relayed after %v over %v", time.Since(start), near.Path())
		for _, link := range []*peerconn.Link{near, far} {
			if p := link.Path(); p.Via != "good soul" {
				t.Errorf("the path is %v, want it to name the relay", p)
			}
		}
		bulk := pour(t, "a to b", 1, near, far)
		time.Sleep(2 * time.Second)
		bulk.finish(t)
		if s := v.turn.Stats(); s.BytesUp+s.BytesDown < uint64(bulk.total()) {
			t.Errorf("the volunteer carried %d and %d bytes of %d", s.BytesUp, s.BytesDown, bulk.total())
		}
	})
}

// TestVolunteerBehindNAT: a volunteer that cannot be reached from outside is not
// listed, and says why.
func TestVolunteerBehindNAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(false)
		site, err := l.net.Site(natlab.SitePortRestricted, "volunteer")
		check(t, err)
		v := l.volunteer(site.Host, "hopeless")
		s := <-v.listed
		if len(s.Addrs) > 0 || s.Reason == "" {
			t.Errorf("the node lists %v (%q)", s.Addrs, s.Reason)
		}
		t.Log(s.Reason)
	})
}

// TestRelayDiesWithAnother: "Two relays are kept warm; one may die": the link goes
// on over the other one, within seconds and without losing a byte.
func TestRelayDiesWithAnother(t *testing.T) {
	for _, used := range []string{"the one in use", "the spare"} {
		t.Run(strings.ReplaceAll(used, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runRelayDies(t, used == "the one in use") })
		})
	}
}

func runRelayDies(t *testing.T, inUse bool) {
	l := newLab(t, natlab.Config{Link: natlab.LinkConfig{Rate: 4e6}})
	l.startNode(false)
	relays := map[string]*volunteer{}
	for _, name := range []string{"one", "two"} {
		relays[name] = l.volunteer(l.net.Host(name, natlab.HostConfig{Link: natlab.LinkConfig{Latency: 5 * time.Millisecond}}), name)
		relays[name].waitListed(t)
	}
	a, b := l.site(natlab.SiteSymmetric, "a"), l.site(natlab.SiteSymmetric, "b")
	l.ready(a, b)
	near, far := linked(t, a, b)
	until(t, peerconn.PathRelay, 10*time.Second, near, far)
	time.Sleep(5 * time.Second)
	up, down := pour(t, "a to b", 1, near, far), pour(t, "b to a", 2, far, near)
	time.Sleep(3 * time.Second)
	t.Logf("before: %v and %v", near.Path(), far.Path())
	victim := near.Path().Via
	if !inUse {
		victim = map[string]string{"one": "two", "two": "one"}[victim]
	}
	start := time.Now()
	relays[victim].crash()
	time.Sleep(20 * time.Second)
	for _, b := range []*bulk{up, down} {
		gap, at := b.gap(start, time.Now())
		t.Logf("%s: longest gap %v, %v after the relay died", b.name, gap, at.Sub(start))
		if gap > 5*time.Second {
			t.Errorf("%s: nothing arrived for %v", b.name, gap)
		}
	}
	t.Logf("after: %v and %v", near.Path(), far.Path())
	if near.Path().Via == victim && inUse {
		t.Errorf("still over %v\n%s", near.Path(), tried(near))
	}
	if near.Context().Err() != nil || far.Context().Err() != nil {
		t.Fatalf("the link ended: %v, %v", context.Cause(near.Context()), context.Cause(far.Context()))
	}
	up.finish(t)
	down.finish(t)
}

// TestRelayDiesAlone: where the only relay dies for good the link ends, with
// ErrNoPath; a link that is direct does not care.
func TestRelayDiesAlone(t *testing.T) {
	for _, kind := range []natlab.SiteKind{natlab.SiteSymmetric, natlab.SitePortRestricted} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, natlab.Config{})
				l.startNode(false)
				v := l.volunteer(l.net.Host("volunteer", natlab.HostConfig{}), "good soul")
				v.waitListed(t)
				a, b := l.site(kind, "a"), l.site(kind, "b")
				l.ready(a, b)
				go echo(b)
				link, err := a.Dial(t.Context(), b.Ticket())
				check(t, err)
				check(t, link.WaitPath(t.Context()))
				time.Sleep(5 * time.Second)
				talk := chat(t, link)
				v.crash()
				start := time.Now()
				if kind == natlab.SitePortRestricted {
					time.Sleep(time.Minute)
					talk.finish(t)
					return
				}
				<-link.Context().Done()
				t.Logf("ended after %v: %v", time.Since(start), context.Cause(link.Context()))
				wantNoPath(t, link)
				<-talk.done
			})
		})
	}
}

func wantNoPath(t *testing.T, l *peerconn.Link) {
	t.Helper()
	if err := context.Cause(l.Context()); !isNoPath(err) {
		t.Errorf("the link ended with %v, want ErrNoPath", err)
	}
}

// TestRelayOnly: with PolicyRelayOnly a host "never shows the peer an address of
// this host and never sends to it except through a relay of this host's own":
// no packet between the two sites, whoever dials.
func TestRelayOnly(t *testing.T) {
	for _, kind := range []natlab.SiteKind{natlab.SiteNone, natlab.SiteFullCone, natlab.SitePortRestricted, natlab.SiteSymmetric} {
		for _, who := range []string{"both", "caller", "callee"} {
			t.Run(fmt.Sprintf("%s_%s", kind, who), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runRelayOnly(t, kind, who) })
			})
		}
	}
}

func runRelayOnly(t *testing.T, kind natlab.SiteKind, who string) {
	wire := newTap()
	l := newLab(t, natlab.Config{Tap: wire.see, Link: natlab.LinkConfig{Rate: 4e6}})
	l.startNode(true)
	siteA, err := l.net.Site(kind, "a")
	check(t, err)
	siteB, err := l.net.Site(kind, "b")
	check(t, err)
	policy := func(mine bool) func(*peerconn.Config) {
		return func(c *peerconn.Config) {
			if mine {
				c.Policy = peerconn.PolicyRelayOnly
			}
		}
	}
	a := l.host(siteA.Host, policy(who != "callee"))
	b := l.host(siteB.Host, policy(who != "caller"))
	l.ready(a, b)
	near, far := linked(t, a, b)
	until(t, peerconn.PathRelay, 10*time.Second, near, far)
	bulk := pour(t, "a to b", 1, near, far)
	time.Sleep(time.Second)
	bulk.finish(t)
	time.Sleep(30 * time.Second)
	if who != "callee" {
		if n := wire.sent("a", addrsOf(siteB)); n > 0 {
			t.Errorf("a, relay only, sent %d packets straight to b", n)
		}
		if n := wire.delivered("b", addrsOf(siteA)); n > 0 {
			t.Errorf("%d packets of a, relay only, arrived at b", n)
		}
	}
	if who != "caller" {
		if n := wire.sent("b", addrsOf(siteA)); n > 0 {
			t.Errorf("b, relay only, sent %d packets straight to a", n)
		}
		if n := wire.delivered("a", addrsOf(siteB)); n > 0 {
			t.Errorf("%d packets of b, relay only, arrived at a", n)
		}
	}
	if near.Path().Kind != peerconn.PathRelay || far.Path().Kind != peerconn.PathRelay {
		t.Errorf("paths %v and %v, want relays", near.Path(), far.Path())
	}
	own := addrsOf(siteA)
	for _, p := range far.Paths() {
		if who != "callee" && own(p.Remote.Addr()) {
			t.Errorf("b knows the address %v of a, which is relay only", p.Remote)
		}
	}
	own = addrsOf(siteB)
	for _, p := range near.Paths() {
		if who != "caller" && own(p.Remote.Addr()) {
			t.Errorf("a knows the address %v of b, which is relay only", p.Remote)
		}
	}
}

// TestDirectOnly: with PolicyDirectOnly on either side no data goes over a relay;
// the link is direct or there is none, with the reasons.
func TestDirectOnly(t *testing.T) {
	for _, kind := range []natlab.SiteKind{natlab.SitePortRestricted, natlab.SiteSymmetric} {
		for _, who := range []string{"both", "caller", "callee"} {
			t.Run(fmt.Sprintf("%s_%s", kind, who), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runDirectOnly(t, kind, who) })
			})
		}
	}
}

func runDirectOnly(t *testing.T, kind natlab.SiteKind, who string) {
	wire := newTap()
	l := newLab(t, natlab.Config{Tap: wire.see})
	l.startNode(false)
	v := l.volunteer(l.net.Host("volunteer", natlab.HostConfig{}), "good soul")
	v.waitListed(t)
	policy := func(mine bool) func(*peerconn.Config) {
		return func(c *peerconn.Config) {
			if mine {
				c.Policy = peerconn.PolicyDirectOnly
			}
		}
	}
	a := l.hostWith(kind, "a", policy(who != "callee"))
	b := l.hostWith(kind, "b", policy(who != "caller"))
	l.ready(a, b)
	go echo(b)
	relay := func(a netip.Addr) bool { return a == v.host.Addr() }
	link, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	check(t, ask(t, link)) // over the node, which is no relay
	if kind == natlab.SitePortRestricted {
		check(t, link.WaitDirect(t.Context()))
		check(t, ask(t, link))
	} else {
		<-link.Context().Done()
		t.Logf("ended: %v", context.Cause(link.Context()))
		wantNoPath(t, link)
	}
	if n := wire.sent("a", relay); n > 0 && who != "callee" {
		t.Errorf("a, direct only, sent %d packets to the relay", n)
	}
	if n := wire.sent("b", relay); n > 0 && who != "caller" {
		t.Errorf("b, direct only, sent %d packets to the relay", n)
	}
}

// TestIPv6: hosts with IPv6 behind stateful firewalls are direct over it, also
// where their IPv4 is hopeless.
func TestIPv6(t *testing.T) {
	pairs := [][2]natlab.SiteKind{
		{natlab.SiteIPv6Firewall, natlab.SiteIPv6Firewall},
		{natlab.SiteDualStack, natlab.SiteDualStack},
		{natlab.SiteIPv6Firewall, natlab.SiteDualStack},
		{natlab.SiteDualStack, natlab.SiteIPv6Firewall},
	}
	for _, pair := range pairs {
		t.Run(fmt.Sprintf("%s_x_%s", pair[0], pair[1]), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, natlab.Config{})
				l.ipv6 = true
				l.startNode(true)
				a, b := l.site(pair[0], "a"), l.site(pair[1], "b")
				l.ready(a, b)
				start := time.Now()
				near, far := linked(t, a, b)
				until(t, peerconn.PathDirect, 10*time.Second, near, far)
				t.Logf("direct after %v over %v", time.Since(start), near.Path())
				if !near.Path().Remote.Addr().Is6() {
					t.Errorf("the path is %v, want IPv6", near.Path())
				}
				wantSameLink(t, near, far)
			})
		})
	}
}

// TestIPv6AndIPv4Relayed: one side has IPv6 only, the other IPv4 only: a
// dual-stack relay joins them.
func TestIPv6AndIPv4Relayed(t *testing.T) {
	for _, v6Dials := range []bool{true, false} {
		t.Run(fmt.Sprintf("ipv6_dials_%v", v6Dials), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, natlab.Config{})
				l.ipv6 = true
				l.startNode(true)
				a, b := l.site(natlab.SiteIPv6Firewall, "a"), l.site(natlab.SitePortRestricted, "b")
				if !v6Dials {
					a, b = b, a
				}
				l.ready(a, b)
				start := time.Now()
				near, far := linked(t, a, b)
				until(t, peerconn.PathRelay, 14*time.Second, near, far)
				t.Logf("relayed after %v over %v and %v", time.Since(start), near.Path(), far.Path())
				wantSameLink(t, near, far)
			})
		})
	}
}
