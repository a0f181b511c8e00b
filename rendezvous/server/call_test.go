package server

import (
	"errors"
	"io"
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
