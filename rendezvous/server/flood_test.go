package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// 1e4 calls a second at one victim: its queue is bounded, and others' calls
// take as long as before.
func TestFloodAtOneVictim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{Strikes: Rate{PerSecond: -1}}})
		victim, alice, bob := w.peer("victim"), w.peer("alice"), w.peer("bob")
		for _, p := range []*peer{victim, alice, bob} {
			p.wantReady("registers")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		for i := range 20 {
			attacker := w.rawPeer(fmt.Sprint("attacker", i))
			defer attacker.close()
			attacker.hello()
			flood.Go(func() { attacker.flood(ctx, victim.id, 500) })
		}
		var latencies []time.Duration
		for range 6 {
			began := time.Now()
			out := alice.call(bob, "offer")
			in := bob.wantCall("offer", "others' calls pass")
			w.send(in, "answer")
			w.wantMessage(out, "answer", "others' answers pass")
			latencies = append(latencies, time.Since(began))
			in.Close()
			out.Close()
			time.Sleep(50 * time.Millisecond)
		}
		if slices.Max(latencies) > 85*time.Millisecond {
			t.Errorf("slowest call beside the flood took %v, want 80 ms", slices.Max(latencies))
		}
		session := w.node.registry.find(victim.id)
		session.inbox.mu.Lock()
		queued := len(session.inbox.calls)
		session.inbox.mu.Unlock()
		if queued > 32 {
			t.Errorf("%d calls wait for the victim, want 32 at most", queued)
		}
		st := w.node.Stats()
		if st.Limited < 3000 || st.Calls > 10+200+100*3 {
			t.Errorf("%+v", st)
		}
		cancel()
		flood.Wait()
	})
}

// flood places calls and forgets them.
func (p *rawPeer) flood(ctx context.Context, victim sallyport.PeerID, perSecond int) {
	for ctx.Err() == nil {
		if stream, err := p.conn.OpenStream(); err == nil {
			stream.Write(wire.Call{Peer: victim, Offer: []byte("x")}.Append(nil))
			stream.CancelRead(0)
			stream.Close()
		}
		time.Sleep(time.Second / time.Duration(perSecond))
	}
}

// Who goes on after that is disconnected.
func TestFlooderIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		victim, attacker := w.peer("victim"), w.rawPeer("attacker")
		defer attacker.close()
		victim.wantReady("the victim registers")
		attacker.hello()
		ctx, cancel := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		defer flood.Wait()
		defer cancel()
		flood.Go(func() { attacker.flood(ctx, victim.id, 500) })
		attacker.wantClosed(wire.CodeLimited, "500 calls a second")
	})
}

// A peer that asks too often is told so.
func TestLimitsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{CallsPerPair: Rate{PerSecond: 1, Burst: 2}, Requests: Rate{PerSecond: 1, Burst: 2}, CallsAtOnce: 3}})
		alice, bob, carol := w.peer("alice"), w.peer("bob"), w.peer("carol")
		for _, p := range []*peer{alice, bob, carol} {
			p.wantReady("registers")
		}
		first := alice.call(bob, "1")
		bob.wantCall("1", "the first call to bob")
		alice.call(bob, "2")
		bob.wantCall("2", "the second call to bob")
		w.wantEnd(alice.call(bob, "3"), rendezvous.ErrLimited, "the third call to bob")
		alice.call(carol, "4")
		carol.wantCall("4", "the third call at once")
		w.wantEnd(alice.call(carol, "5"), rendezvous.ErrLimited, "the fourth call at once")
		first.Close()
		time.Sleep(time.Second)
		alice.call(carol, "6")
		carol.wantCall("6", "one of them is over")
		for i, want := range []error{nil, nil, rendezvous.ErrLimited} {
			if _, err := alice.Present(alice.ctx(), bob.id); !errors.Is(err, want) {
				t.Errorf("request %d: %v, want %v", i+1, err, want)
			}
		}
		if _, err := alice.Relays(alice.ctx()); !errors.Is(err, rendezvous.ErrLimited) {
			t.Errorf("requests of another kind count together: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := alice.Present(alice.ctx(), bob.id); err != nil {
			t.Errorf("a token came back after a second: %v", err)
		}
	})
}

// Handshakes beyond the limits are refused before any cryptography, and give
// their place back.
func TestConnectionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{Connections: 2}})
		a, b := w.rawPeer("a"), w.rawPeer("b")
		defer b.close()
		if p, err := w.dial(identity("c").ClientTLS(identity("node").PeerID(), rendezvous.Protocol)); err == nil {
			p.close()
			t.Error("a third connection is let in")
		}
		a.close()
		time.Sleep(time.Second)
		w.rawPeer("c").close()
	})
}

// Under load an address must prove itself first (RFC 9000 section 8.1.2), which
// an honest client does.
func TestRetryUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{Handshakes: Rate{PerSecond: 0.001, Burst: 1}}})
		alice, bob := w.peer("alice"), w.peer("bob")
		began := time.Now()
		alice.wantReady("one of them passes at once")
		bob.wantReady("the other proves its address")
		if took := time.Since(began); took < 110*time.Millisecond || took > 170*time.Millisecond {
			t.Errorf("took %v, want one round trip of 40 ms more than the 80 ms without", took)
		}
	})
}

// "1e6 spoofed sources through a fake socket: heap growth < 10 MB".
func TestSpoofedSourcesHoldNoMemory(t *testing.T) {
	s := &Server{limits: newLimiters(Limits{})}
	sock := &socket{datagrams: anyDatagrams{discard{}}, public: netip.MustParseAddrPort("198.51.100.1:3478")}
	s.sockets = []*socket{sock}
	s.stun = newSTUNServer(s)
	sock.turn = newTURNConn(discard{}, sock.datagrams)
	sock.binding = func(b []byte, from netip.AddrPort, via []byte) { s.stun.receive(b, from, via, sock) }
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	allocate := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest)).Raw
	before := heap()
	for i := range 500_000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 7}), uint16(i))
		sock.divert(binding, from, nil)
		sock.divert(allocate, from, nil)
		s.underLoad(net.UDPAddrFromAddrPort(from))
	}
	if after := heap(); after > before+10<<20 {
		t.Errorf("heap grew by %d bytes", after-before)
	}
	runtime.KeepAlive(s)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// discard is a socket that nothing comes from.
type discard struct{ net.PacketConn }

func (discard) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }
