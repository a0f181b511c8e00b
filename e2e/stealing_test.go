package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// A geometry is how far two peers are from each other and from their node: one-way
// times of the two sites' uplinks and of the node's.
type geometry struct {
	name       string
	a, b, node time.Duration
	jitter     time.Duration
	loss       float64
	wantAll    bool // every seed must be direct; otherwise the rate is printed
}

var geometries = []geometry{
	{"as in the README", 20 * ms, 20 * ms, 0, 0, 0, true},
	{"node far, peers near", 2 * ms, 2 * ms, 98 * ms, 0, 0, true},
	{"node near, peers far", 100 * ms, 100 * ms, 0, 0, 0, true},
	{"one side near the node", 2 * ms, 100 * ms, 0, 0, 0, true},
	{"the other side near the node", 100 * ms, 2 * ms, 0, 0, 0, true},
	{"one near, node far", 2 * ms, 50 * ms, 100 * ms, 0, 0, true},
	{"5 ms of jitter", 20 * ms, 20 * ms, 0, 5 * ms, 0, true},
	{"node far, peers near, jitter", 2 * ms, 2 * ms, 98 * ms, 5 * ms, 0, false},
	{"20 ms of jitter", 20 * ms, 20 * ms, 0, 20 * ms, 0, false},
	{"1 % loss", 20 * ms, 20 * ms, 0, 0, 0.01, false},
	{"5 % loss", 20 * ms, 20 * ms, 0, 0, 0.05, false},
	{"all of it", 5 * ms, 60 * ms, 50 * ms, 10 * ms, 0.02, false},
}

const ms = time.Millisecond

// TestStealingNATs: "two behind Linux NATs without an input firewall (where the
// packet that knocks first steals the mapping), are direct at the first try",
// wherever the node is. Both sides must knock before the other's packet arrives.
func TestStealingNATs(t *testing.T) {
	var table strings.Builder
	for _, g := range geometries {
		seeds := few(25)
		direct, slowest := 0, time.Duration(0)
		for seed := range seeds {
			synctest.Test(t, func(t *testing.T) {
				if took, ok := dialIn(t, g, uint64(seed+1), seed%2 == 0); ok {
					direct++
					slowest = max(slowest, took)
				}
			})
		}
		fmt.Fprintf(&table, "\n%-30s direct %3d of %d, the slowest after %v", g.name, direct, seeds, slowest.Round(ms))
		if g.wantAll && direct < seeds || direct < seeds/2 {
			t.Errorf("%s: direct only %d of %d times", g.name, direct, seeds)
		}
	}
	t.Log(table.String())
}

// dialIn returns after what time a pair of that geometry was direct.
func dialIn(t *testing.T, g geometry, seed uint64, aDials bool) (time.Duration, bool) {
	l := newLab(t, natlab.Config{Seed: seed, Link: natlab.LinkConfig{Loss: g.loss / 2, Jitter: g.jitter / 2}})
	l.startNode(true)
	l.node.host.Link().Set(natlab.LinkConfig{Latency: g.node})
	a, b := l.distant(natlab.SiteLinux, "a", g.a, g), l.distant(natlab.SiteLinux, "b", g.b, g)
	if !aDials {
		a, b = b, a
	}
	l.ready(a, b)
	start := time.Now()
	link, err := a.Dial(t.Context(), b.Ticket())
	if err != nil {
		t.Logf("%s, seed %d: %v", g.name, seed, err)
		return 0, false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := link.WaitDirect(ctx); err != nil {
		return 0, false
	}
	return time.Since(start), true
}

// distant is site with an uplink of its own length.
func (l *lab) distant(kind natlab.SiteKind, name string, latency time.Duration, g geometry) *peerconn.Host {
	l.t.Helper()
	s, err := l.net.Site(kind, name)
	check(l.t, err)
	s.Uplink().Set(natlab.LinkConfig{Latency: latency, Jitter: g.jitter / 2, Loss: g.loss / 2})
	return l.host(s.Host, nil)
}
