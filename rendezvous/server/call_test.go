package server

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/rendezvous"
)

func TestCallOnLoopback(t *testing.T) {
	w := &world{t: t}
	w.start(Config{})
	alice, bob := w.peer("alice"), w.peer("bob")
	reg := alice.wantReady("alice registers")
	if reg.NodeAddr != w.addr || !reg.Observed.Addr().IsLoopback() || len(reg.STUN) != 1 || reg.STUN[0] != w.addr {
		t.Errorf("registration %+v, node is at %v", reg, w.addr)
	}
	bob.wantReady("bob registers")
	out := alice.call(bob, "offer")
	in := bob.wantCall("offer", "the offer arrives")
	if in.Peer() != alice.id || out.Peer() != bob.id {
		t.Errorf("callee sees %v, caller sees %v", in.Peer(), out.Peer())
	}
	w.send(in, "answer")
	w.wantMessage(out, "answer", "the answer arrives")
	w.send(out, "more")
	w.wantMessage(in, "more", "a later message arrives")
	in.Close()
	w.wantEnd(out, io.EOF, "callee closed")
}

// An answer takes one round trip between the peers over the node, no more.
func TestCallIsOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		began := time.Now()
		out := alice.call(bob, string(make([]byte, rendezvous.MaxMessage)))
		in := <-bob.calls
		defer in.Close()
		w.send(in, string(make([]byte, rendezvous.MaxMessage)))
		if _, err := out.Receive(alice.ctx()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 81*time.Millisecond {
			t.Errorf("offer and answer took %v, want 4 × 20 ms", took)
		}
	})
}

func TestRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		out := alice.call(bob, "offer")
		if err := bob.wantCall("offer", "the offer arrives").Refuse("not allowed"); err != nil {
			t.Fatal(err)
		}
		err := w.wantEnd(out, rendezvous.ErrRefused, "bob refused")
		if refused, ok := errors.AsType[*rendezvous.RefusedError](err); !ok || refused.Reason != "not allowed" {
			t.Errorf("reason is lost: %v", err)
		}
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		full := string(make([]byte, rendezvous.MaxMessage))
		out := alice.call(bob, full)
		in := bob.wantCall(full, "a full offer arrives")
		if in.Remaining() != 3*rendezvous.MaxMessage || out.Remaining() != in.Remaining() {
			t.Errorf("remaining: caller %d, callee %d", out.Remaining(), in.Remaining())
		}
		w.send(in, full)
		w.wantMessage(out, full, "a full answer arrives")
		w.send(out, full)
		w.wantMessage(in, full, "a full message arrives")
		if err := in.Send(make([]byte, rendezvous.MaxMessage+1)); !errors.Is(err, rendezvous.ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		if err := in.Send(nil); !errors.Is(err, rendezvous.ErrTooLarge) {
			t.Errorf("empty: %v", err)
		}
		w.send(in, full[:1])
		w.wantMessage(out, full[:1], "the budget counts bytes")
		if err := out.Send([]byte(full)); !errors.Is(err, rendezvous.ErrBudget) {
			t.Errorf("beyond the budget: %v", err)
		}
		w.send(out, full[1:])
		w.wantMessage(in, full[1:], "the last bytes arrive")
		if out.Remaining() != 0 || in.Remaining() != 0 {
			t.Errorf("remaining: caller %d, callee %d", out.Remaining(), in.Remaining())
		}
	})
}

// Both sides spend the same budget: where they do it at once, the node is the
// judge, and what it let pass arrives.
func TestBudgetIsSharedAtTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		full := string(make([]byte, rendezvous.MaxMessage))
		out := alice.call(bob, full)
		in := bob.wantCall(full, "the offer arrives")
		for range 3 {
			w.send(out, full)
			w.send(in, full)
		}
		passed := 0
		for _, call := range []*rendezvous.Call{in, out} {
			var err error
			for err == nil {
				if _, err = call.Receive(alice.ctx()); err == nil {
					passed++
				}
			}
			if !errors.Is(err, rendezvous.ErrBudget) {
				t.Errorf("ended by %v", err)
			}
		}
		if passed != 3 {
			t.Errorf("%d messages passed, want 3", passed)
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		began := time.Now()
		out := alice.call(bob, "offer")
		in := bob.wantCall("offer", "it arrives")
		w.wantEnd(out, rendezvous.ErrExpired, "nobody answers")
		if took := time.Since(began); took < 29*time.Second || took > 31*time.Second {
			t.Errorf("took %v", took)
		}
		w.wantEnd(in, rendezvous.ErrExpired, "the callee's side ends too")
	})
}

func TestReceiveGoesOnAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		out := alice.call(bob, "offer")
		in := bob.wantCall("offer", "it arrives")
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if _, err := out.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			cancel()
		}
		w.send(in, "late")
		w.wantMessage(out, "late", "the call is still there")
	})
}

func TestCallEndsWithItsPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob, carol := w.peer("alice"), w.peer("bob"), w.peer("carol")
		for _, p := range []*peer{alice, bob, carol} {
			p.wantReady("registers")
		}
		out := alice.call(bob, "one")
		bob.wantCall("one", "it arrives")
		bob.quit()
		w.wantEnd(out, rendezvous.ErrOffline, "the callee's program ended")
		alice.call(carol, "two")
		in := carol.wantCall("two", "it arrives")
		alice.quit()
		w.wantEnd(in, io.EOF, "the caller's program ended")
		if err := in.Send([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("sending into a call that is over: %v", err)
		}
	})
}

func TestCallOfWrongSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice := w.peer("alice")
		alice.wantReady("alice registers")
		for _, size := range []int{0, rendezvous.MaxMessage + 1} {
			if _, err := alice.Call(alice.ctx(), alice.id, make([]byte, size)); !errors.Is(err, rendezvous.ErrTooLarge) {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if out := alice.call(alice, "x"); out.Refuse("no") == nil {
			t.Error("a caller can refuse its own call")
		}
	})
}
