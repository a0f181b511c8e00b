package e2e

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// TestTwoHomeNodes: one of two home nodes is dead, first or last in the list, or
// dies later: hosts register at the other and dials find their way.
func TestTwoHomeNodes(t *testing.T) {
	for _, deadFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("dead_first_%v", deadFirst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runTwoNodes(t, deadFirst) })
		})
	}
}

func runTwoNodes(t *testing.T, deadFirst bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	second := l.addNode("second", true)
	dead, alive := l.node, second
	nodes := []sallyport.NodeURL{dead.url, alive.url}
	if !deadFirst {
		nodes[0], nodes[1] = nodes[1], nodes[0]
	}
	both := func(c *peerconn.Config) { c.Nodes = nodes }
	dead.crash()
	a, b := l.hostWith(natlab.SitePortRestricted, "a", both), l.hostWith(natlab.SitePortRestricted, "b", both)
	l.ready(a, b)
	go echo(b)
	dialBoth := func(when string, bound time.Duration) {
		start := time.Now()
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, ask(t, link))
		first := time.Since(start)
		check(t, link.WaitDirect(t.Context()))
		t.Logf("%s: first byte after %v, direct after %v", when, first, time.Since(start))
		if first > bound {
			t.Errorf("%s: it took %v", when, first)
		}
		link.Close()
	}
	dialBoth("with one node dead", time.Second)
	dialBoth("with one node dead, again", time.Second)
	dead.start(t)
	time.Sleep(20 * time.Second)
	dialBoth("with both", time.Second)
	alive.crash()
	time.Sleep(time.Second)
	dialBoth("with the other dead for a second", 3*time.Second)
	time.Sleep(30 * time.Second)
	dialBoth("with the other dead for a while", time.Second)
}
