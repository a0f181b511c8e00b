package relay_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/relay"
)

const delay = 50 * time.Millisecond // one way, everywhere in the lab

// TestWriteNeverWaits: the first packet to a new peer arrives two ways later, which is the least
// there is, and from the third way on data travels as ChannelData.
func TestWriteNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		start := time.Now()
		if _, err := a.WriteTo([]byte("first"), l.peer.addr); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("WriteTo took %v", d)
		}
		wantRead(t, l.peer, "first", a.Relayed(), "first packet")
		if d := time.Since(start); d != 2*delay {
			t.Errorf("the first packet took %v, want %v", d, 2*delay)
		}
		if err := a.Bind(t.Context(), l.peer.addr); err != nil {
			t.Fatal(err)
		}
		var overhead atomic.Int64
		l.net.watch(func(b []byte, from, to netip.AddrPort) bool {
			if to == l.addr {
				overhead.Store(int64(len(b)) - 6)
			}
			return true
		})
		_, _ = a.WriteTo([]byte("second"), l.peer.addr)
		wantRead(t, l.peer, "second", a.Relayed(), "second packet")
		if got := overhead.Load(); got != 4 {
			t.Errorf("%d bytes of overhead once the channel is bound, want 4", got)
		}
	})
}

// TestKeptUp: an allocation in use outlives its credential, the nonces, the permissions and the
// channels by hours; a permission only waited on is given up after a while, and comes back.
func TestKeptUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		for range 3 * 60 {
			if _, err := a.WriteTo([]byte("tick"), l.peer.addr); err != nil {
				t.Fatalf("%v", err)
			}
			wantRead(t, l.peer, "tick", a.Relayed(), "every minute")
			_, _ = l.peer.WriteTo([]byte("tock"), net.UDPAddrFromAddrPort(a.Relayed()))
			l.in.want(t, "tock", l.peer.addr, "every minute")
			time.Sleep(time.Minute)
		}
		time.Sleep(time.Hour) // idle: the channel and its permission lapse, the allocation does not
		_, _ = l.peer.WriteTo([]byte("late"), net.UDPAddrFromAddrPort(a.Relayed()))
		time.Sleep(time.Second)
		if len(l.in) != 0 {
			t.Error("a permission was kept for an hour without a packet")
		}
		if _, err := a.WriteTo([]byte("again"), l.peer.addr); err != nil {
			t.Fatal(err)
		}
		wantRead(t, l.peer, "again", a.Relayed(), "after an idle hour")
		if err := a.Err(); err != nil {
			t.Errorf("Err: %v", err)
		}
	})
}

// TestPermitIsKept: a permission asked for lasts beyond its five minutes while packets come in.
func TestPermitIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		if err := a.Permit(t.Context(), l.peer.addr.Addr()); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			time.Sleep(time.Minute)
			_, _ = l.peer.WriteTo([]byte("in"), net.UDPAddrFromAddrPort(a.Relayed()))
			l.in.want(t, "in", l.peer.addr, "under a permission alone")
		}
	})
}

// TestServerForgets: a server that restarted answers 437, and the allocation says that it is lost.
func TestServerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		_ = l.Server.Close()
		l.serve(t)
		select {
		case <-a.Done():
		case <-time.After(10 * time.Minute):
			t.Fatal("not noticed in ten minutes")
		}
		if !errors.Is(a.Err(), relay.ErrMismatch) {
			t.Errorf("Err: %v", a.Err())
		}
		if _, err := a.WriteTo([]byte("x"), l.peer.addr); !errors.Is(err, relay.ErrMismatch) {
			t.Errorf("WriteTo afterwards: %v", err)
		}
		b := l.allocate(l.config())
		_ = l.Server.Close()
		l.serve(t)
		if err := b.Refresh(t.Context()); !errors.Is(err, relay.ErrMismatch) {
			t.Errorf("Refresh: %v", err)
		}
		<-b.Done()
	})
}

// TestServerGone: an allocation whose server stays silent is lost when its lifetime is over.
func TestServerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		start := time.Now()
		_ = l.Server.Close()
		<-a.Done()
		if d := time.Since(start); d < 5*time.Minute || d > 15*time.Minute {
			t.Errorf("given up after %v", d)
		}
		if !errors.Is(a.Err(), relay.ErrTimeout) {
			t.Errorf("Err: %v", a.Err())
		}
	})
}

// TestNoServer: RFC 8489 §6.2.1's seven requests, with our shorter interval, then an error; or
// ctx's end.
func TestNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, requests := newMemNet(delay), 0
		n.watch(func([]byte, netip.AddrPort, netip.AddrPort) bool { requests++; return true })
		cfg := relay.Config{Server: netip.MustParseAddrPort("20.9.9.9:3478"), ListenPacket: n.at(clientIP)}
		start := time.Now()
		if _, err := relay.Allocate(t.Context(), cfg); !errors.Is(err, relay.ErrTimeout) {
			t.Errorf("no server: %v", err)
		}
		if d := time.Since(start); d != 63*250*time.Millisecond+4*time.Second || requests != 7 {
			t.Errorf("%d requests, given up after %v", requests, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		_, err := relay.Allocate(ctx, cfg)
		if !errors.Is(err, relay.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("with a deadline: %v after %v", err, time.Since(start))
		}
	})
}

// TestLoss: two of five packets to and from the server are lost, requests and answers, and all
// requests come through.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		count := 0
		l.net.watch(func([]byte, netip.AddrPort, netip.AddrPort) bool { count++; return count%5 != 1 && count%5 != 4 })
		a := l.allocate(l.config())
		if err := a.Permit(t.Context(), l.peer.addr.Addr()); err != nil {
			t.Errorf("Permit: %v", err)
		}
		if err := a.Bind(t.Context(), l.peer.addr); err != nil {
			t.Errorf("Bind: %v", err)
		}
		if got := l.Stats(); got.Allocations != 1 || got.Allocated != 1 {
			t.Errorf("a repeated Allocate counted twice: %+v", got)
		}
	})
}

// TestForgedAnswers: answers without the right integrity are "ignored, as if [they] had never been
// received" (RFC 8489 §9.2.5).
func TestForgedAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		forged := 0
		l.net.watch(func(b []byte, from, to netip.AddrPort) bool {
			if to != l.addr || b[0] > 3 {
				return true
			}
			m := new(stun.Message)
			if stun.Decode(b, m) != nil || m.Type.Class != stun.ClassRequest {
				return true
			}
			for _, setters := range [][]stun.Setter{
				{stun.NewType(m.Type.Method, stun.ClassErrorResponse), stun.CodeAllocMismatch},
				{stun.NewType(m.Type.Method, stun.ClassSuccessResponse)},
				{stun.NewType(m.Type.Method, stun.ClassErrorResponse), stun.CodeForbidden, stun.NewLongTermIntegrity("a", "b", "c")},
			} {
				answer, err := stun.Build(append([]stun.Setter{stun.NewTransactionIDSetter(m.TransactionID)}, setters...)...)
				if err != nil {
					t.Errorf("forging: %v", err)
				}
				l.net.deliver(memPacket{answer.Raw, l.addr}, from) // before the server's
				forged++
			}
			return true
		})
		if err := a.Refresh(t.Context()); err != nil {
			t.Errorf("Refresh: %v", err)
		}
		if err := a.Permit(t.Context(), l.peer.addr.Addr()); err != nil {
			t.Errorf("Permit: %v", err)
		}
		if forged == 0 {
			t.Error("nothing was forged")
		}
	})
}

// TestForbiddenPeer: Permit and Bind say so, and so does WriteTo once it is known.
func TestForbiddenPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		a := l.allocate(l.config())
		private := netip.MustParseAddrPort("10.0.0.1:5000")
		if err := a.Permit(t.Context(), private.Addr()); !errors.Is(err, relay.ErrForbidden) {
			t.Errorf("Permit: %v", err)
		}
		if err := a.Bind(t.Context(), private); !errors.Is(err, relay.ErrForbidden) {
			t.Errorf("Bind: %v", err)
		}
		if _, err := a.WriteTo([]byte("x"), private); !errors.Is(err, relay.ErrForbidden) {
			t.Errorf("WriteTo: %v", err)
		}
		for _, bad := range []string{"[2a00::1]:5000", "8.8.8.8:0"} {
			if _, err := a.WriteTo([]byte("x"), netip.MustParseAddrPort(bad)); !errors.Is(err, relay.ErrPeer) {
				t.Errorf("WriteTo %s: %v", bad, err)
			}
		}
	})
}

// TestProbeSeesABlockedRelay: the server answers, but nothing reaches its relayed ports.
func TestProbeSeesABlockedRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, delay)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := relay.Probe(ctx, l.config()); err != nil {
			t.Errorf("an open relay: %v", err)
		}
		l.net.watch(func(_ []byte, _, to netip.AddrPort) bool {
			return to.Addr().String() != serverIP || to == l.addr
		})
		if err := relay.Probe(ctx, l.config()); !errors.Is(err, relay.ErrTimeout) {
			t.Errorf("a relay behind a firewall: %v", err)
		}
		time.Sleep(time.Minute)
		if got := l.Stats().Allocations; got != 0 {
			t.Errorf("the probes left %d allocations", got)
		}
	})
}
