package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// crash ends the node without a word to anybody.
func (w *world) crash() {
	w.net.setDrop(func(from, _ netip.AddrPort) bool { return from == w.addr })
	w.stop()
	w.net.setDrop(nil)
}

func (p *peer) drainRegistrations() {
	for len(p.regs) > 0 {
		<-p.regs
	}
}

func (p *peer) wantRegistered(within time.Duration, why string) {
	p.w.t.Helper()
	select {
	case <-p.regs:
	case <-time.After(within):
		p.w.t.Fatalf("%s: not registered within %v", why, within)
	}
}

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob, carol := w.peer("alice"), w.peer("bob"), w.peer("carol", callsOnly)
		for _, p := range []*peer{alice, bob, carol} {
			p.wantReady("registers")
		}
		ids := []sallyport.PeerID{bob.id, identity("nobody").PeerID(), carol.id, alice.id}
		for len(ids) < 300 { // more than one request's worth
			ids = append(ids, bob.id)
		}
		here, err := alice.Present(alice.ctx(), ids...)
		if err != nil || len(here) != len(ids) {
			t.Fatalf("%d answers, %v", len(here), err)
		}
		if !here[0] || here[1] || here[2] || !here[3] || !here[299] {
			t.Errorf("presence %v: bob and alice may be called, nobody is unknown, carol only calls", here[:4])
		}
	})
}

func TestOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob", callsOnly)
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		w.wantEnd(alice.call(bob, "offer"), rendezvous.ErrOffline, "bob is not callable")
		w.wantEnd(bob.call(&peer{id: identity("nobody").PeerID()}, "offer"), rendezvous.ErrOffline, "nobody was ever there")
	})
}

// A callee that vanished without a word is found out by its silence.
func TestVanishedCallee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		w.net.setDrop(func(from, to netip.AddrPort) bool { return from == bob.conn.addr || to == bob.conn.addr })
		began := time.Now()
		w.wantEnd(alice.call(bob, "offer"), rendezvous.ErrOffline, "bob's network is gone")
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		here, err := alice.Present(alice.ctx(), bob.id)
		if err != nil || here[0] {
			t.Errorf("bob is still present: %v, %v", here, err)
		}
		w.net.setDrop(nil)
		bob.drainRegistrations()
		bob.wantRegistered(time.Minute, "bob comes back")
	})
}

// The newest program of a key is registered; the one before stops fighting and
// takes the place again when that one leaves.
func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, first := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		first.wantReady("the first bob registers")
		second := w.peer("bob")
		second.wantReady("the second bob registers")
		first.drainRegistrations()
		second.drainRegistrations()
		time.Sleep(time.Hour)
		if len(first.regs)+len(second.regs) > 0 {
			t.Errorf("registrations flap: first %d more, second %d more", len(first.regs), len(second.regs))
		}
		alice.call(second, "offer")
		second.wantCall("offer", "the call goes to the newest")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := first.Ready(ctx); !errors.Is(err, rendezvous.ErrTakenOver) {
			t.Errorf("the first bob says %v", err)
		}
		second.quit()
		first.wantRegistered(6*time.Minute, "the second bob left")
		alice.call(first, "again")
		first.wantCall("again", "the call goes to the first again")
	})
}

// A program that only calls leaves the registration of another alone.
func TestCallerBesideCallee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		bob, alice := w.peer("bob"), w.peer("alice")
		bob.wantReady("bob registers")
		alice.wantReady("alice registers")
		ping := w.peer("bob", callsOnly)
		ping.wantReady("bob's second program registers")
		ping.call(alice, "from bob")
		alice.wantCall("from bob", "it calls")
		alice.call(bob, "to bob")
		bob.wantCall("to bob", "the first is still called")
	})
}

// A client that moved to another network takes over its own registration.
func TestRoaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		before := bob.wantReady("bob registers")
		bob.drainRegistrations()
		w.net.mu.Lock()
		w.net.moved[bob.conn.addr] = netip.MustParseAddrPort("203.0.113.77:9")
		w.net.mu.Unlock()
		bob.wantRegistered(time.Minute, "the address changed")
		after := bob.wantReady("bob is registered")
		if after.Observed == before.Observed || after.Observed != w.net.moved[bob.conn.addr] {
			t.Errorf("observed %v before, %v after", before.Observed, after.Observed)
		}
		alice.call(bob, "offer")
		bob.wantCall("offer", "bob can be called where he is now")
	})
}

// "a client is back within 1 RTT": the first packet to a node that restarted
// is answered by a stateless reset, which starts a new handshake.
func TestNodeRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		time.Sleep(time.Minute)
		w.crash()
		w.start(Config{})
		alice.drainRegistrations()
		bob.drainRegistrations()
		began := time.Now()
		call := alice.call(bob, "offer")
		var node *rendezvous.NodeError
		_, err := call.Receive(alice.ctx())
		if !errors.As(err, &node) || !strings.Contains(err.Error(), "restarted") {
			t.Errorf("the call that found out: %v, want a NodeError that says so", err)
		}
		if errors.Is(err, net.ErrClosed) {
			t.Errorf("%v claims that the client is closed", err)
		}
		alice.wantRegistered(time.Second, "alice is back")
		if took := time.Since(began); took > 170*time.Millisecond {
			t.Errorf("alice was back after %v, want the reset and a handshake with registration: 4 × 40 ms", took)
		}
		bob.wantRegistered(16*time.Second, "bob finds out by his next keepalive")
		alice.call(bob, "again")
		bob.wantCall("again", "all is as before")
	})
}

// A node that shuts down says so.
func TestNodeLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		call := alice.call(bob, "offer")
		bob.wantCall("offer", "the call is there")
		alice.drainRegistrations()
		w.stop()
		var node *rendezvous.NodeError
		if _, err := call.Receive(alice.ctx()); !errors.As(err, &node) || !strings.Contains(err.Error(), "shutting down") {
			t.Errorf("mid-call: %v", err)
		}
		time.Sleep(time.Minute) // it stays away for a while
		w.start(Config{})
		alice.wantRegistered(10*time.Second, "alice keeps trying")
	})
}

// A node that dies in the middle of a call is noticed long before QUIC would.
func TestNodeDiesMidCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		w.crash()
		began := time.Now()
		_, err := alice.call(bob, "offer").Receive(alice.ctx())
		if node, ok := errors.AsType[*rendezvous.NodeError](err); !ok || node.Node != w.url() {
			t.Errorf("got %v, want a NodeError", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var node *rendezvous.NodeError
		if _, err := alice.Call(ctx, bob.id, []byte("offer")); !errors.As(err, &node) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call without a node: %v", err)
		}
	})
}

func TestWrongNodeKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice := w.peer("alice", func(cfg *rendezvous.Config) { cfg.Node.ID = identity("somebody else").PeerID() })
		_, err := alice.Ready(alice.ctx())
		var node *rendezvous.NodeError
		if !errors.Is(err, sallyport.ErrWrongPeer) || !errors.As(err, &node) {
			t.Errorf("got %v, want ErrWrongPeer at once", err)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		call := alice.call(bob, "offer")
		bob.wantCall("offer", "it arrives")
		received := make(chan error)
		go func() {
			_, err := call.Receive(context.Background())
			received <- err
		}()
		synctest.Wait()
		alice.Close()
		alice.Close()
		if err := <-received; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive: %v", err)
		}
		if err := <-alice.ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run: %v", err)
		}
		if _, err := alice.Call(t.Context(), bob.id, []byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Call: %v", err)
		}
		if _, err := alice.Ready(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Ready: %v", err)
		}
		if err := alice.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run again: %v", err)
		}
	})
}

// "clock skew of a day" plays no part: a bubble's clock is the only one, so the
// hello is forged instead.
func TestRegistrationNeedsNoClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		reg := w.peer("alice").wantReady("alice registers")
		if d := time.Since(reg.NodeTime); d < 0 || d > time.Second {
			t.Errorf("node time is %v off", d)
		}
		if reg.RTT < 40*time.Millisecond || reg.RTT > 60*time.Millisecond {
			t.Errorf("round trip of %v, want about 40 ms", reg.RTT)
		}
	})
}
