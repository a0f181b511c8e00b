package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// times are the moments of one dial, counted from the call.
type times struct {
	ready  time.Duration // Dial returned
	first  time.Duration // the first answered byte, over whatever path
	direct time.Duration // the first answer over a direct path; relayed pairs: over the relay; negative: none in 30 s
}

// timeSeeds is how many dials are behind each line of the table.
const timeSeeds = 50

// TestTimes prints how long warm hosts 80 ms apart, 40 ms from their node, take:
//
//	go test ./e2e -run TestTimes -v
//
// "link ready ≤ 1 round trip between the peers + 30 ms (110 ms), first answered
// byte ≤ 2 + 30 ms (190 ms), first answer over the direct path ≤ 2 + 50 ms (210
// ms)"; "A relayed pair answers within 3 round trips + 30 ms". Time is virtual, so
// that the numbers do not depend on the machine: without loss they are asserted.
func TestTimes(t *testing.T) {
	pairs := [][2]natlab.SiteKind{
		{natlab.SitePortRestricted, natlab.SitePortRestricted},
		{natlab.SiteCarrier, natlab.SiteCarrier},
		{natlab.SiteLinux, natlab.SiteLinux},
		{natlab.SiteSymmetric, natlab.SitePortRestricted},
		{natlab.SiteSymmetric, natlab.SiteSymmetric},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-34s %5s  %15s %15s %15s   %s\n", "80 ms round trip, p50/p99 in ms", "loss", "ready", "first byte", "best path", "which")
	for _, pair := range pairs {
		for _, loss := range []float64{0, 0.05} {
			var all []times
			want, _ := expected(pair[0], pair[1])
			for seed := range few(timeSeeds) {
				synctest.Test(t, func(t *testing.T) { all = append(all, timeOne(t, pair, loss, uint64(seed), want)) })
			}
			fmt.Fprintf(&table, "%-34s %4.0f%%  %15s %15s %15s   %v\n", fmt.Sprintf("%s × %s", pair[0], pair[1]), loss*100,
				centiles(all, func(x times) time.Duration { return x.ready }),
				centiles(all, func(x times) time.Duration { return x.first }),
				centiles(all, func(x times) time.Duration { return x.direct }), reached(all, want))
			if loss == 0 {
				wantTimes(t, pair, want, all)
			}
		}
	}
	t.Log(table.String())
}

func wantTimes(t *testing.T, pair [2]natlab.SiteKind, kind peerconn.PathKind, all []times) {
	t.Helper()
	for seed, x := range all {
		late := x.direct < 0 || x.ready > 110*time.Millisecond || x.first > 190*time.Millisecond
		switch {
		case pair[0] == natlab.SiteCarrier: // two layers: openers open the inner one only, checks the outer one later
			late = late || x.direct > 270*time.Millisecond
		case kind == peerconn.PathDirect:
			late = late || x.direct > 210*time.Millisecond
		default:
			late = late || x.direct > 3*80*time.Millisecond+30*time.Millisecond && x.first > 3*80*time.Millisecond+30*time.Millisecond
		}
		if late {
			t.Errorf("%s × %s, seed %d: ready %v, first byte %v, %v %v", pair[0], pair[1], seed, x.ready, x.first, kind, x.direct)
			return
		}
	}
}

// timeOne asks at once, as a program does that has a request ready, and then
// again and again until an answer has come the best way.
func timeOne(t *testing.T, pair [2]natlab.SiteKind, loss float64, seed uint64, want peerconn.PathKind) (x times) {
	l := newLab(t, natlab.Config{Seed: seed + 1, Link: natlab.LinkConfig{Loss: loss / 2}})
	l.startNode(true)
	a, b := l.site(pair[0], "a"), l.site(pair[1], "b")
	l.ready(a, b)
	go echo(b)
	start := time.Now()
	link, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	x.ready = time.Since(start)
	best := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if want == peerconn.PathDirect {
			best <- link.WaitDirect(ctx)
		} else {
			best <- link.WaitPath(ctx)
		}
	}()
	check(t, ask(t, link))
	x.first = time.Since(start)
	x.direct = x.first
	if link.Path().Kind != want {
		if err := <-best; err != nil {
			x.direct = -1
			return x
		}
		check(t, ask(t, link))
		x.direct = time.Since(start)
		return x
	}
	<-best
	return x
}

func centiles(all []times, of func(times) time.Duration) string {
	var list []time.Duration
	for _, x := range all {
		if d := of(x); d >= 0 {
			list = append(list, d)
		}
	}
	slices.Sort(list)
	ms := func(q float64) int64 { return list[int(q*float64(len(list)-1))].Milliseconds() }
	return fmt.Sprintf("%d / %d", ms(0.5), ms(0.99))
}

// reached names the path and how many dials got it.
func reached(all []times, want peerconn.PathKind) string {
	n := 0
	for _, x := range all {
		if x.direct >= 0 {
			n++
		}
	}
	return fmt.Sprintf("%v %d of %d", want, n, len(all))
}
