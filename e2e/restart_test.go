package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// waitRegistered asks the node until it knows all the hosts.
func (l *lab) waitRegistered(limit time.Duration, hosts ...*peerconn.Host) time.Duration {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), limit)
	defer cancel()
	start := time.Now()
	watcher := l.rawClient("watcher", nil)
	defer watcher.Close()
	var ids []sallyport.PeerID
	for _, h := range hosts {
		ids = append(ids, h.PeerID())
	}
	for {
		here, err := watcher.Present(ctx, ids...)
		if err == nil && !contains(here, false) {
			return time.Since(start)
		}
		if ctx.Err() != nil {
			l.t.Fatalf("not registered again after %v: %v, %v", limit, here, err)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

func contains(list []bool, want bool) bool {
	for _, b := range list {
		if b == want {
			return true
		}
	}
	return len(list) == 0
}

// TestNodeRestart: "a node restart is survived by its clients without a restart
// of theirs": both are registered again within seconds, the link between them
// goes on, and new dials work.
func TestNodeRestart(t *testing.T) {
	restarts(t, natlab.SitePortRestricted, 0, 3*time.Second, time.Minute)
}

// restarts has the node go, politely or not, and come back after these times.
func restarts(t *testing.T, kind natlab.SiteKind, downs ...time.Duration) {
	for _, crash := range []bool{false, true} {
		for _, down := range downs {
			t.Run(fmt.Sprintf("crash_%v_down_%v", crash, down), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runRestart(t, kind, crash, down) })
			})
		}
	}
}

func runRestart(t *testing.T, kind natlab.SiteKind, crash bool, down time.Duration) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	a, b := l.site(kind, "a"), l.site(kind, "b")
	l.ready(a, b)
	go echo(b)
	link, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	check(t, link.WaitPath(t.Context()))
	time.Sleep(5 * time.Second)
	was := link.Path().Kind
	talk := chat(t, link)

	if crash {
		l.node.crash()
	} else {
		l.node.stop()
	}
	time.Sleep(down)
	l.node.start(t)
	took := l.waitRegistered(30*time.Second, a, b)
	time.Sleep(15 * time.Second)
	talk.finish(t)
	t.Logf("%v: registered again after %v; %d answers over the old link, the slowest after %v", was, took, talk.asks, talk.slow)
	if took > 10*time.Second {
		t.Errorf("registered again after %v, want a few seconds", took)
	}
	check(t, ask(t, link))

	again, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	check(t, ask(t, again))
	check(t, again.WaitPath(t.Context()))
}

// TestNodeDiesMidCall: the node is gone at one moment or another of a call. The
// dial either succeeds, because enough was exchanged before, or says what
// happened; the host is usable when the node is back.
func TestNodeDiesMidCall(t *testing.T) {
	for _, crash := range []bool{false, true} {
		for _, after := range []time.Duration{0, 2, 19, 21, 39, 41, 59, 61, 79, 81, 110} {
			t.Run(fmt.Sprintf("after_%d_ms_crash_%v", after, crash), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runNodeDies(t, after*time.Millisecond, crash) })
			})
		}
	}
}

func runNodeDies(t *testing.T, after time.Duration, crash bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
	l.ready(a, b)
	go echo(b)
	type result struct {
		link *peerconn.Link
		err  error
		took time.Duration
	}
	dialed := make(chan result, 1)
	go func() {
		start := time.Now()
		link, err := a.Dial(t.Context(), b.Ticket())
		dialed <- result{link, err, time.Since(start)}
	}()
	time.Sleep(after)
	if crash {
		l.node.crash()
	} else {
		l.node.stop()
	}
	res := <-dialed
	if res.err == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		err := res.link.WaitDirect(ctx)
		var failed *peerconn.DialError
		switch {
		case err == nil:
			check(t, ask(t, res.link))
			t.Logf("linked after %v and direct", res.took)
		case errors.As(err, &failed) && len(failed.Attempts) > 0, errors.Is(err, peerconn.ErrNoPath):
			t.Logf("linked after %v, then: %v", res.took, err)
		default:
			t.Errorf("linked after %v, then: %v; want a direct path or a reason", res.took, err)
		}
		res.link.Close()
	} else {
		var failed *peerconn.DialError
		var node *rendezvous.NodeError
		if !errors.As(res.err, &failed) {
			t.Errorf("got %v, want a *DialError", res.err)
		}
		if !errors.Is(res.err, peerconn.ErrNoNode) && !errors.Is(res.err, peerconn.ErrNoAnswer) && !errors.As(res.err, &node) {
			t.Errorf("got %v, want an error about the node", res.err)
		}
		t.Logf("after %v: %v", res.took, res.err)
	}
	l.node.start(t)
	l.waitRegistered(30*time.Second, a, b)
	link, err := a.Dial(t.Context(), b.Ticket())
	check(t, err)
	check(t, link.WaitDirect(t.Context()))
	check(t, ask(t, link))
}

// TestPeerVanishes: the other computer is gone without a word, before a dial, in
// the middle of one, and under a link that is idle or busy. What is told, and
// after how long.
func TestPeerVanishes(t *testing.T) {
	for _, after := range []time.Duration{-1, 10, 30, 50, 70, 90, 130} {
		t.Run(fmt.Sprintf("dial_%d_ms_old", after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runVanishDialing(t, after*time.Millisecond) })
		})
	}
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("under_a_link_busy_%v", busy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runVanishLinked(t, busy) })
		})
	}
}

func runVanishDialing(t *testing.T, after time.Duration) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	a := l.site(natlab.SitePortRestricted, "a")
	there, err := l.net.Site(natlab.SitePortRestricted, "b")
	check(t, err)
	b := l.host(there.Host, nil)
	l.ready(a, b)
	go func() {
		time.Sleep(after)
		there.Uplink().Cut()
	}()
	synctest.Wait()
	start := time.Now()
	link, err := a.Dial(t.Context(), b.Ticket())
	took := time.Since(start)
	if err == nil {
		<-link.Context().Done()
		err = context.Cause(link.Context())
		if !errors.Is(err, peerconn.ErrNoPath) {
			t.Errorf("the link ended with %v, want ErrNoPath", err)
		}
		t.Logf("linked after %v; ended after %v: %v", took, time.Since(start), err)
		return
	}
	if !errors.Is(err, peerconn.ErrNoAnswer) && !errors.Is(err, peerconn.ErrOffline) {
		t.Errorf("got %v, want no answer or offline", err)
	}
	if took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	t.Logf("after %v: %v", took, err)
}

func runVanishLinked(t *testing.T, busy bool) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	a := l.site(natlab.SitePortRestricted, "a")
	there, err := l.net.Site(natlab.SitePortRestricted, "b")
	check(t, err)
	b := l.host(there.Host, nil)
	l.ready(a, b)
	near, far := linked(t, a, b)
	check(t, near.WaitDirect(t.Context()))
	if busy {
		go func() {
			s, err := near.OpenStream(t.Context())
			for err == nil {
				_, err = s.Write(make([]byte, 1000))
				time.Sleep(20 * time.Millisecond)
			}
		}()
		go func() {
			s, err := far.AcceptStream(t.Context())
			if err == nil {
				io.Copy(io.Discard, s)
			}
		}()
	}
	time.Sleep(10 * time.Second)
	there.Uplink().Cut()
	start := time.Now()
	<-near.Context().Done()
	err = context.Cause(near.Context())
	t.Logf("after %v: %v", time.Since(start), err)
	if !errors.Is(err, peerconn.ErrNoPath) {
		t.Errorf("the link ended with %v, want ErrNoPath", err)
	}
	if took := time.Since(start); took > 45*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestPeerClosesMidDial: a host that is closed while it is being dialed says so;
// the dialer does not wait for its timeout.
func TestPeerClosesMidDial(t *testing.T) {
	for _, after := range []time.Duration{10, 30, 50, 70, 90, 130} {
		t.Run(fmt.Sprintf("after_%d_ms", after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runClosesMidDial(t, after*time.Millisecond) })
		})
	}
}

func runClosesMidDial(t *testing.T, after time.Duration) {
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	a, b := l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
	l.ready(a, b)
	go func() {
		time.Sleep(after)
		b.Close()
	}()
	start := time.Now()
	link, err := a.Dial(t.Context(), b.Ticket())
	if err == nil {
		<-link.Context().Done()
		err = context.Cause(link.Context())
	}
	took := time.Since(start)
	t.Logf("after %v: %v", took, err)
	if took > 5*time.Second {
		t.Errorf("it took %v to say %v", took, err)
	}
}
