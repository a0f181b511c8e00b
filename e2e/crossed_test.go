package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// identities returns two keys, the one with the smaller PeerID first.
func identities(seed int) (small, large *sallyport.Identity) {
	one, _ := sallyport.IdentityFromSeed(bytes.Repeat([]byte{byte(seed), 1}, 16))
	two, _ := sallyport.IdentityFromSeed(bytes.Repeat([]byte{byte(seed), 2}, 16))
	if one.PeerID().Compare(two.PeerID()) > 0 {
		return two, one
	}
	return one, two
}

// collect accepts the links of h until it closes.
type collected struct {
	mu    sync.Mutex
	links []*peerconn.Link
}

func collect(h *peerconn.Host) *collected {
	c := &collected{}
	go func() { // ends with the host
		for {
			l, err := h.Accept(context.Background())
			if err != nil {
				return
			}
			c.mu.Lock()
			c.links = append(c.links, l)
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *collected) all() []*peerconn.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*peerconn.Link(nil), c.links...)
}

// TestCrossedDials: "Two peers that dial each other at once end with one link",
// whichever begins, and both Dial calls return the two ends of it.
func TestCrossedDials(t *testing.T) {
	for _, late := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 39 * time.Millisecond, 40 * time.Millisecond, 41 * time.Millisecond, 60 * time.Millisecond, 79 * time.Millisecond} {
		for _, smallFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v_later_small_first_%v", late, smallFirst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runCrossed(t, 1, late, smallFirst) })
			})
		}
	}
}

// TestCrossedDialsManySeeds varies everything that a seed varies, and the delay.
func TestCrossedDialsManySeeds(t *testing.T) {
	for seed := range few(100) {
		synctest.Test(t, func(t *testing.T) {
			runCrossed(t, seed, time.Duration(seed*7919%90)*time.Millisecond, seed%2 == 0)
		})
		if t.Failed() {
			t.Fatalf("with seed %d, %d ms later", seed, seed*7919%90)
		}
	}
}

func runCrossed(t *testing.T, seed int, late time.Duration, smallFirst bool) {
	l := newLab(t, natlab.Config{Seed: uint64(seed)})
	l.startNode(true)
	small, large := identities(seed)
	hosts := [2]*peerconn.Host{l.siteAs(natlab.SitePortRestricted, "small", small), l.siteAs(natlab.SitePortRestricted, "large", large)}
	l.ready(hosts[:]...)
	if !smallFirst {
		hosts[0], hosts[1] = hosts[1], hosts[0]
	}
	waiting := [2]*collected{collect(hosts[0]), collect(hosts[1])}
	var links [2]*peerconn.Link
	var errs [2]error
	var wg sync.WaitGroup
	start := time.Now()
	for i, h := range hosts {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * late)
			links[i], errs[i] = h.Dial(t.Context(), hosts[1-i].Ticket())
		})
	}
	wg.Wait()
	took := time.Since(start)
	check(t, errors.Join(errs[:]...))
	time.Sleep(5 * time.Second)
	for i, c := range waiting {
		for _, extra := range c.all() {
			t.Errorf("host %d: a second link in Accept (ended: %v)", i, context.Cause(extra.Context()))
		}
	}
	wantSameLink(t, links[0], links[1])
	until(t, peerconn.PathDirect, 10*time.Second, links[:]...)
	t.Logf("both have the link after %v", took)
}

// siteAs is site with an identity of the caller's choice.
func (l *lab) siteAs(kind natlab.SiteKind, name string, id *sallyport.Identity) *peerconn.Host {
	l.t.Helper()
	s, err := l.net.Site(kind, name)
	check(l.t, err)
	return l.host(s.Host, func(c *peerconn.Config) { c.Identity = id })
}

// wantSameLink proves that a and b are two ends of one connection: what is
// written into one comes out of the other.
func wantSameLink(t *testing.T, a, b *peerconn.Link) {
	t.Helper()
	for _, ends := range [][2]*peerconn.Link{{a, b}, {b, a}} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s, err := ends[0].OpenStream(ctx)
		check(t, err)
		s.Write([]byte("same"))
		s.Close()
		r, err := ends[1].AcceptStream(ctx)
		if err != nil {
			t.Fatalf("what was written into one end does not come out of the other: %v (this end: %v, other: %v)", err,
				context.Cause(ends[1].Context()), context.Cause(ends[0].Context()))
		}
		got, err := io.ReadAll(r)
		if string(got) != "same" || err != nil {
			t.Fatalf("got %q, %v from the other end", got, err)
		}
	}
}

// TestCrossedDialsOneNotCallable: where one side may not be called, its own dial
// is the link, and the dial towards it yields to it or says that the peer is
// offline; never is there a second link.
func TestCrossedDialsOneNotCallable(t *testing.T) {
	for _, late := range []time.Duration{-40, -10, 0, 10, 40, 79} {
		for _, smallCallable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d_ms_small_callable_%v", late, smallCallable), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runOneCallable(t, late*time.Millisecond, smallCallable) })
			})
		}
	}
}

func runOneCallable(t *testing.T, late time.Duration, smallCallable bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	callableID, hiddenID := identities(3)
	if !smallCallable {
		callableID, hiddenID = hiddenID, callableID
	}
	callable := l.siteAs(natlab.SitePortRestricted, "callable", callableID)
	s, err := l.net.Site(natlab.SitePortRestricted, "hidden")
	check(t, err)
	hidden := l.host(s.Host, func(c *peerconn.Config) { c.Identity, c.Allow = hiddenID, nil })
	l.ready(callable, hidden)
	accepted := collect(callable)
	var wg sync.WaitGroup
	var toHidden, toCallable *peerconn.Link
	var errHidden, errCallable error
	wg.Go(func() {
		time.Sleep(max(0, -late))
		toCallable, errCallable = hidden.Dial(t.Context(), callable.Ticket())
	})
	wg.Go(func() {
		time.Sleep(max(0, late))
		toHidden, errHidden = callable.Dial(t.Context(), hidden.Ticket())
	})
	wg.Wait()
	check(t, errCallable)
	time.Sleep(5 * time.Second)
	far := append(accepted.all(), toHidden)
	if toHidden == nil {
		far = accepted.all()
		if !errors.Is(errHidden, peerconn.ErrOffline) && !errors.Is(errHidden, peerconn.ErrRefused) {
			t.Errorf("dialing a peer that may not be called: %v, want offline or refused", errHidden)
		}
	}
	if len(far) != 1 {
		t.Fatalf("the callable side has %d links, want 1 (dialing gave %v)", len(far), errHidden)
	}
	wantSameLink(t, toCallable, far[0])
	t.Logf("dialing the one that may not be called gave: link %v, %v", toHidden != nil, errHidden)
}

// TestClosedHostsUnblock: Host.Close with links open and dials under way ends
// every call that waits, with net.ErrClosed.
func TestClosedHostsUnblock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
		away := newIdentity(t).PeerID()
		l.ready(a, b)
		near, far := linked(t, a, b)
		check(t, near.WaitDirect(t.Context()))
		s, err := near.OpenStream(t.Context())
		check(t, err)
		s.Write([]byte("x"))

		waits := map[string]func() error{
			"Accept":          func() error { _, err := a.Accept(context.Background()); return err },
			"AcceptStream":    func() error { _, err := near.AcceptStream(context.Background()); return err },
			"ReceiveDatagram": func() error { _, err := near.ReceiveDatagram(context.Background()); return err },
			"Stream.Read":     func() error { _, err := s.Read(make([]byte, 1)); return err },
			"link's context":  func() error { <-near.Context().Done(); return context.Cause(near.Context()) },
			"WaitPath of b":   func() error { <-far.Context().Done(); return context.Cause(far.Context()) },
			"Dial": func() error {
				_, err := a.Dial(context.Background(), sallyport.Ticket{Peer: b.PeerID(), Nodes: []sallyport.NodeURL{{ID: away, Host: "203.0.113.9", Port: 3478}}})
				return err
			},
		}
		type outcome struct {
			name string
			err  error
		}
		ended := make(chan outcome, len(waits))
		for name, f := range waits {
			go func() { ended <- outcome{name, f()} }()
		}
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		check(t, a.Close())
		t.Logf("Close took %v", time.Since(start))
		for range waits {
			select {
			case o := <-ended:
				if !errors.Is(o.err, net.ErrClosed) {
					t.Errorf("%s ended with %v, want net.ErrClosed", o.name, o.err)
				}
			case <-time.After(time.Minute):
				t.Fatal("something still waits a minute after Close")
			}
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("it took %v until everybody was awake", took)
		}
		check(t, a.Close())
		if _, err := a.Dial(t.Context(), b.Ticket()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Dial of a closed host: %v, want net.ErrClosed", err)
		}
		if err := near.SendDatagram([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SendDatagram on a closed host: %v, want net.ErrClosed", err)
		}
	})
}
