package e2e

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

func TestFirstLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
		l.ready(a, b)
		go echo(b)
		start := time.Now()
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		t.Logf("ready after %v over %v", time.Since(start), link.Path())
		check(t, ask(t, link))
		t.Logf("first byte after %v over %v", time.Since(start), link.Path())
		check(t, link.WaitDirect(t.Context()))
		t.Logf("direct after %v over %v", time.Since(start), link.Path())
		check(t, ask(t, link))
		t.Logf("second after %v over %v", time.Since(start), link.Path())
		for _, p := range link.Paths() {
			t.Logf("%+v", p)
		}
		link.Close()
		a.Close()
		b.Close()
		l.node.stop()
		l.net.Close()
	})
}
