package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// shortLived is a home whose NAT forgets after 30 s, the shortest that is found
// in the field, and where packets from outside do not count (RFC 4787, REQ-6).
func (l *lab) shortLived(name string, mapping natlab.Behavior, absolute time.Duration) *natlab.Site {
	home := l.net.Router(name+"-home", natlab.RouterConfig{NAT: &natlab.NATConfig{
		Mapping: mapping, Filtering: natlab.AddressAndPortDependent, Allocation: natlab.Random,
		Lifetime: 30 * time.Second, AbsoluteLifetime: absolute,
	}})
	return &natlab.Site{Host: home.Host(name, natlab.HostConfig{}), Home: home}
}

// TestIdleLinks: a link that nobody uses for hours, direct or relayed, is there
// when it is needed: NAT mappings, relay permissions, channels, allocations and
// credentials are kept up or replaced.
func TestIdleLinks(t *testing.T) {
	for _, mapping := range []natlab.Behavior{natlab.EndpointIndependent, natlab.AddressAndPortDependent} {
		t.Run(fmt.Sprint(mapping), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wire := newTap()
				l := newLab(t, natlab.Config{Tap: wire.see})
				l.startNode(true)
				a, b := l.host(l.shortLived("a", mapping, 0).Host, nil), l.host(l.shortLived("b", mapping, 0).Host, nil)
				l.ready(a, b)
				go echo(b)
				link, err := a.Dial(t.Context(), b.Ticket())
				check(t, err)
				check(t, link.WaitPath(t.Context()))
				time.Sleep(10 * time.Second)
				was := link.Path()
				for range 3 {
					wire.reset()
					time.Sleep(time.Hour)
					if err := ask(t, link); err != nil {
						t.Fatalf("after hours idle: %v", err)
					}
					t.Logf("%v: a sent %d packets in an idle hour", link.Path(), wire.sent("a", anybody))
				}
				if link.Path().Kind != was.Kind {
					t.Errorf("the path was %v and is %v", was, link.Path())
				}
			})
		})
	}
}

// TestAbsoluteLifetime: a NAT that ends a mapping after ten minutes however busy
// it is: the link goes on.
func TestAbsoluteLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a := l.host(l.shortLived("a", natlab.EndpointIndependent, 10*time.Minute).Host, nil)
		b := l.site(natlab.SiteFullCone, "b")
		l.ready(a, b)
		go echo(b)
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, link.WaitDirect(t.Context()))
		talk := chat(t, link)
		time.Sleep(time.Hour)
		talk.finish(t)
		t.Logf("%d answers in an hour, the slowest after %v, over %v", talk.asks, talk.slow, link.Path())
	})
}

// TestRouterReboots: a home router that forgets everything, or comes back with
// another address, under a link: the link goes on, by a second call where the other
// side admits us by our old port only, and the host can be dialed again.
func TestRouterReboots(t *testing.T) {
	for _, peer := range []natlab.SiteKind{natlab.SiteNone, natlab.SiteFullCone, natlab.SitePortRestricted, natlab.SiteSymmetric} {
		for _, renumber := range []bool{false, true} {
			t.Run(fmt.Sprintf("peer_%s_renumber_%v", peer, renumber), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runReboot(t, peer, renumber) })
			})
		}
	}
}

func runReboot(t *testing.T, peer natlab.SiteKind, renumber bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	s, err := l.net.Site(natlab.SitePortRestricted, "a")
	check(t, err)
	a, b := l.host(s.Host, nil), l.site(peer, "b")
	l.ready(a, b)
	go echo(b)
	link, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	check(t, link.WaitPath(t.Context()))
	time.Sleep(5 * time.Second)
	was := link.Path()
	talk := chat(t, link)
	if renumber {
		s.Home.Renumber()
	} else {
		s.Home.Reboot()
	}
	time.Sleep(time.Minute)
	talk.finish(t)
	t.Logf("was %v, is %v; %d answers, the slowest after %v", was, link.Path(), talk.asks, talk.slow)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	again, err := a.Dial(ctx, b.Ticket())
	check(t, err)
	check(t, again.WaitPath(ctx))
	back, err := b.Dial(ctx, a.Ticket())
	check(t, err)
	check(t, back.WaitPath(ctx))
}

// TestSameCarrier: two homes behind one carrier's NAT, which hairpins (RFC 6888,
// REQ-1 with RFC 4787, REQ-9): direct without leaving it.
func TestSameCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		nat, _ := natlab.SiteCarrier.NAT()
		carrier := l.net.Router("carrier", natlab.RouterConfig{NAT: &nat, Inside: netip.MustParsePrefix("100.64.0.0/10")})
		var hosts [2]*peerconn.Host
		for i := range hosts {
			s, err := carrier.Site(natlab.SitePortRestricted, fmt.Sprintf("home%d", i))
			check(t, err)
			hosts[i] = l.host(s.Host, nil)
		}
		l.ready(hosts[:]...)
		near, far := linked(t, hosts[0], hosts[1])
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := near.WaitDirect(ctx); err != nil {
			t.Fatalf("%v\n%s", err, tried(near))
		}
		wantSameLink(t, near, far)
		t.Log(near.Path())
	})
}

// TestDialTwice: a host that dials the same peer several times at once gets as
// many links, all of which work, also where the peer dials it meanwhile.
func TestDialTwice(t *testing.T) {
	for _, crossing := range []bool{false, true} {
		t.Run(fmt.Sprintf("crossing_%v", crossing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runDialTwice(t, crossing) })
		})
	}
}

func runDialTwice(t *testing.T, crossing bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	small, large := identities(5)
	a, b := l.siteAs(natlab.SitePortRestricted, "a", small), l.siteAs(natlab.SitePortRestricted, "b", large)
	l.ready(a, b)
	go echo(a)
	go echo(b)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		from, to := a, b
		if crossing && i >= 2 {
			from, to = b, a
		}
		wg.Go(func() {
			link, err := from.Dial(t.Context(), to.Ticket())
			if err == nil && !crossing {
				err = ask(t, link)
			}
			if err == nil {
				err = link.WaitDirect(t.Context())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	check(t, errors.Join(errs...))
}

// TestCrossedDialsWithLoss is TestCrossedDials where a packet in twenty is lost.
func TestCrossedDialsWithLoss(t *testing.T) {
	for seed := range 50 {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, natlab.Config{Seed: uint64(seed + 1), Link: natlab.LinkConfig{Loss: 0.025}})
			l.startNode(true)
			small, large := identities(seed)
			hosts := [2]*peerconn.Host{l.siteAs(natlab.SitePortRestricted, "small", small), l.siteAs(natlab.SitePortRestricted, "large", large)}
			l.ready(hosts[:]...)
			waiting := [2]*collected{collect(hosts[0]), collect(hosts[1])}
			var links [2]*peerconn.Link
			var errs [2]error
			var wg sync.WaitGroup
			for i, h := range hosts {
				wg.Go(func() {
					time.Sleep(time.Duration(i*(seed%40)) * time.Millisecond)
					links[i], errs[i] = h.Dial(t.Context(), hosts[1-i].Ticket())
				})
			}
			wg.Wait()
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			time.Sleep(5 * time.Second)
			for i, c := range waiting {
				for _, extra := range c.all() {
					t.Errorf("seed %d, host %d: a second link in Accept (ended: %v)", seed, i, context.Cause(extra.Context()))
				}
			}
			wantSameLink(t, links[0], links[1])
		})
	}
}
