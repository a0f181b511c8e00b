package e2e

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// wantDialError dials and wants a *DialError of that cause within the limit.
func wantDialError(t *testing.T, from *peerconn.Host, to sallyport.Ticket, want error, limit time.Duration) {
	t.Helper()
	start := time.Now()
	link, err := from.Dial(t.Context(), to)
	took := time.Since(start)
	var failed *peerconn.DialError
	switch {
	case err == nil:
		t.Errorf("linked over %v, want %v", link.Path(), want)
	case !errors.As(err, &failed):
		t.Errorf("got %T %v, want a *DialError", err, err)
	case want != nil && !errors.Is(err, want):
		t.Errorf("got %v, want %v", err, want)
	case took > limit:
		t.Errorf("it took %v, want at most %v: %v", took, limit, err)
	default:
		t.Logf("after %v: %v", took, err)
	}
}

// TestRefusals: each way in which a dial cannot succeed has its own clear error,
// soon, and the host goes on.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
		strict := l.hostWith(natlab.SitePortRestricted, "strict", func(c *peerconn.Config) {
			c.Allow = func(id sallyport.PeerID) bool { return id == b.PeerID() }
		})
		hidden := l.hostWith(natlab.SitePortRestricted, "hidden", func(c *peerconn.Config) { c.Allow = nil })
		gone := l.site(natlab.SitePortRestricted, "gone")
		l.ready(a, b, strict, hidden, gone)
		goneTicket := gone.Ticket()
		gone.Close()

		rtt := 100 * time.Millisecond
		wantDialError(t, a, strict.Ticket(), peerconn.ErrRefused, rtt)
		wantDialError(t, a, hidden.Ticket(), peerconn.ErrOffline, rtt)
		wantDialError(t, a, goneTicket, peerconn.ErrOffline, rtt)
		wantDialError(t, a, sallyport.Ticket{Peer: newIdentity(t).PeerID()}, peerconn.ErrOffline, rtt)
		wantDialError(t, a, sallyport.Ticket{Peer: a.PeerID()}, nil, rtt)
		wantDialError(t, a, a.Ticket(), nil, rtt)
		wantDialError(t, a, sallyport.Ticket{}, nil, rtt)

		nowhere := sallyport.NodeURL{ID: l.node.id.PeerID(), Host: "203.0.113.9", Port: 3478}
		wantDialError(t, a, sallyport.Ticket{Peer: b.PeerID(), Nodes: []sallyport.NodeURL{nowhere}}, peerconn.ErrNoNode, 6*time.Second)
		imposter := l.node.url
		imposter.ID = newIdentity(t).PeerID()
		wantDialError(t, a, sallyport.Ticket{Peer: b.PeerID(), Nodes: []sallyport.NodeURL{imposter}}, peerconn.ErrNoNode, 2*time.Second)

		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Dial(cancelled, b.Ticket()); !errors.Is(err, context.Canceled) {
			t.Errorf("dialing with a cancelled context: %v", err)
		}
		for _, host := range []*peerconn.Host{b} {
			link, err := a.Dial(t.Context(), host.Ticket())
			check(t, err)
			check(t, link.WaitDirect(t.Context()))
		}
		link, err := b.Dial(t.Context(), strict.Ticket())
		check(t, err)
		check(t, link.WaitDirect(t.Context()))
	})
}

// TestForeignNode: a ticket that names a node which the dialer does not know.
func TestForeignNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a := l.site(natlab.SitePortRestricted, "a")
		home := l.node
		other := l.addNode("other", true)
		l.node = other
		b := l.site(natlab.SitePortRestricted, "b")
		l.node = home
		l.ready(a, b)
		go echo(b)
		for range 2 {
			start := time.Now()
			link, err := a.Dial(t.Context(), b.Ticket())
			check(t, err)
			check(t, ask(t, link))
			check(t, link.WaitDirect(t.Context()))
			t.Logf("linked through the other's node, direct after %v", time.Since(start))
			link.Close()
		}
		wantDialError(t, a, sallyport.Ticket{Peer: b.PeerID()}, peerconn.ErrOffline, time.Second)
		homeless := l.hostWith(natlab.SitePortRestricted, "homeless", func(c *peerconn.Config) { c.Nodes, c.Allow = nil, nil })
		link, err := homeless.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, link.WaitDirect(t.Context()))
		if err := homeless.Ready(t.Context()); !errors.Is(err, peerconn.ErrNoNode) {
			t.Errorf("Ready without nodes: %v", err)
		}
	})
}

// TestCancelledDials: a context that ends at any moment of a dial ends the dial
// at once and leaves nothing behind; synctest fails where a goroutine stays.
func TestCancelledDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SiteSymmetric, "b")
		l.ready(a, b)
		go echo(b)
		rng := rand.New(rand.NewPCG(1, 2))
		cancelled := 0
		for range 60 {
			after := time.Duration(rng.IntN(120_000)) * time.Microsecond
			ctx, cancel := context.WithTimeout(t.Context(), after)
			start := time.Now()
			link, err := a.Dial(ctx, b.Ticket())
			took := time.Since(start)
			cancel()
			switch {
			case err == nil:
				check(t, ask(t, link))
				link.Close()
			case took > after+time.Millisecond:
				t.Errorf("cancelled after %v, returned after %v: %v", after, took, err)
			default:
				cancelled++
			}
			time.Sleep(time.Second)
		}
		if cancelled < 20 {
			t.Errorf("only %d of 60 dials were cut short", cancelled)
		}
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, ask(t, link))
		t.Logf("%d of 60 cancelled, host usable", cancelled)
	})
}

// TestCloseDuringDials: Host.Close at any moment of a dial, by either side.
func TestCloseDuringDials(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 40 {
		after := time.Duration(rng.IntN(200_000)) * time.Microsecond
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, natlab.Config{Seed: uint64(i)})
			l.startNode(true)
			a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SiteSymmetric, "b")
			l.ready(a, b)
			go echo(b)
			done := make(chan struct{})
			go func() {
				defer close(done)
				if link, err := a.Dial(t.Context(), b.Ticket()); err == nil {
					ask(t, link)
				}
			}()
			time.Sleep(after)
			start := time.Now()
			if i%2 == 0 {
				a.Close()
				<-done
			} else {
				b.Close()
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("Close after %v took %v", after, took)
			}
			a.Close()
			<-done
		})
	}
}
