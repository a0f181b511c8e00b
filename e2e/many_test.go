package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// TestMany: a hundred hosts of all kinds on one node, each dialing others at the
// same time: every pair reaches the kind of path that TestMatrix promises.
func TestMany(t *testing.T) {
	start := time.Now()
	var pairs, direct int
	synctest.Test(t, func(t *testing.T) { pairs, direct = runMany(t, 100, 3) })
	t.Logf("%d pairs, %d of them direct, in %v of real time", pairs, direct, time.Since(start).Round(time.Millisecond))
}

type dialled struct {
	from, to int
	link     *peerconn.Link
	err      error
}

func runMany(t *testing.T, hosts, each int) (pairs, direct int) {
	l := newLab(t, natlab.Config{Seed: 11})
	l.startNode(true)
	kinds := matrixKinds[:len(matrixKinds)-1] // all but the one that cannot link
	all := make([]*peerconn.Host, hosts)
	for i := range all {
		all[i] = l.site(kinds[i%len(kinds)], fmt.Sprintf("host%d", i))
	}
	l.ready(all...)
	for _, h := range all {
		go echo(h)
	}
	results := manyDials(t, all, each)
	time.Sleep(10 * time.Second)
	for _, d := range results {
		a, b := kinds[d.from%len(kinds)], kinds[d.to%len(kinds)]
		want, _ := expected(a, b)
		if d.err != nil {
			t.Errorf("%d %s × %d %s: %v", d.from, a, d.to, b, d.err)
			continue
		}
		if got := d.link.Path().Kind; got != want {
			t.Errorf("%d %s × %d %s: %v, want %v\n%s", d.from, a, d.to, b, d.link.Path(), want, tried(d.link))
		}
		if err := ask(t, d.link); err != nil {
			t.Errorf("%d %s × %d %s: %v", d.from, a, d.to, b, err)
		}
		if want == peerconn.PathDirect {
			direct++
		}
	}
	return len(results), direct
}

// manyDials has each host dial as many others, all within a second. No pair
// dials twice, since one pair shares one link where dials cross.
func manyDials(t *testing.T, all []*peerconn.Host, each int) (results []dialled) {
	rng := rand.New(rand.NewPCG(5, 6))
	taken := map[[2]int]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for from := range all {
		for range each {
			to := rng.IntN(len(all))
			if to == from || taken[[2]int{min(from, to), max(from, to)}] {
				continue
			}
			taken[[2]int{min(from, to), max(from, to)}] = true
			delay := time.Duration(rng.IntN(1000)) * time.Millisecond
			wg.Go(func() {
				time.Sleep(delay)
				link, err := all[from].Dial(t.Context(), all[to].Ticket())
				mu.Lock()
				defer mu.Unlock()
				results = append(results, dialled{from, to, link, err})
			})
		}
	}
	wg.Wait()
	return results
}

// TestManyCallOne: a host that a hundred others dial within a second serves them
// all, or says busy; and it stays usable.
func TestManyCallOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{Seed: 12})
		l.startNode(true)
		one := l.site(natlab.SitePortRestricted, "one")
		others := make([]*peerconn.Host, 100)
		for i := range others {
			others[i] = l.site(natlab.SitePortRestricted, fmt.Sprintf("host%d", i))
		}
		l.ready(append(others, one)...)
		go echo(one)
		var mu sync.Mutex
		var wg sync.WaitGroup
		linked, failures := 0, map[string]int{}
		for i, h := range others {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				link, err := h.Dial(t.Context(), one.Ticket())
				if err == nil {
					err = link.WaitDirect(t.Context())
				}
				if err == nil {
					err = ask(t, link)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					linked++
				} else {
					failures[fmt.Sprint(errors.Unwrap(err))]++
				}
			})
		}
		wg.Wait()
		t.Logf("%d of %d linked; others: %v", linked, len(others), failures)
		if linked < 64 {
			t.Errorf("only %d linked, want at least the 64 that are answered at a time", linked)
		}
	})
}

// TestFortyContainerAddresses: "candidates bounded and ordered so that a host with
// forty container addresses still punches at once".
func TestFortyContainerAddresses(t *testing.T) {
	for _, who := range []string{"caller", "callee", "both"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, natlab.Config{})
				l.startNode(true)
				a := l.containers(natlab.SitePortRestricted, "a", who != "callee")
				b := l.containers(natlab.SitePortRestricted, "b", who != "caller")
				l.ready(a, b)
				start := time.Now()
				near, far := linked(t, a, b)
				check(t, near.WaitDirect(t.Context()))
				took := time.Since(start)
				t.Logf("direct after %v; %d and %d paths tried", took, len(near.Paths()), len(far.Paths()))
				if took > 210*time.Millisecond {
					t.Errorf("direct after %v, want 210 ms as without containers", took)
				}
				if kind := near.Path().Kind; kind != peerconn.PathDirect {
					t.Errorf("the path is %v", near.Path())
				}
			})
		})
	}
}

// containers is site on a machine with forty bridges of containers, the same
// ones everywhere, as a machine with Docker has them.
func (l *lab) containers(kind natlab.SiteKind, name string, many bool) *peerconn.Host {
	l.t.Helper()
	s, err := l.net.Site(kind, name)
	check(l.t, err)
	if !many {
		return l.host(s.Host, nil)
	}
	var local []netip.Prefix
	for i := range 40 {
		local = append(local, netip.MustParsePrefix(fmt.Sprintf("172.%d.%d.1/24", 17+i/20, i)))
	}
	h := s.Home.Host(name+"-docker", natlab.HostConfig{Local: local})
	return l.host(h, func(c *peerconn.Config) {
		c.Interfaces = func() ([]holepunch.Interface, error) {
			var list []holepunch.Interface
			for i, p := range local {
				list = append(list, holepunch.Interface{Name: fmt.Sprintf("br-%012x", i*7919), Prefixes: []netip.Prefix{p}})
			}
			var own []netip.Prefix
			for _, p := range h.Addrs() {
				if !contained(local, p) {
					own = append(own, p)
				}
			}
			return append(list, holepunch.Interface{Name: "eth0", Prefixes: own}), nil
		}
	})
}

func contained(list []netip.Prefix, p netip.Prefix) bool {
	for _, q := range list {
		if p == q {
			return true
		}
	}
	return false
}

// TestSameNetwork: two hosts in one home are linked over it, and are not sent
// out and back.
func TestSameNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		s, err := l.net.Site(natlab.SitePortRestricted, "a")
		check(t, err)
		a, b := l.host(s.Host, nil), l.host(s.Home.Host("b", natlab.HostConfig{}), nil)
		l.ready(a, b)
		go echo(b)
		start := time.Now()
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		check(t, link.WaitDirect(ctx))
		t.Logf("after %v over %v", time.Since(start), link.Path())
		time.Sleep(5 * time.Second)
		if link.Path().Kind != peerconn.PathLAN {
			t.Errorf("the path is %v, want lan\n%s", link.Path(), tried(link))
		}
		check(t, ask(t, link))
	})
}
