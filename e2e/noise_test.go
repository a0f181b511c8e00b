package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// TestGarbageOnEverySocket: random datagrams of every class at a host, a node and
// a NAT, from strangers: links go on, dials work.
func TestGarbageOnEverySocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		aSite, err := l.net.Site(natlab.SiteNone, "a")
		check(t, err)
		a, b := l.host(aSite.Host, nil), l.site(natlab.SiteFullCone, "b")
		l.ready(a, b)
		go echo(b)
		link, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, link.WaitDirect(t.Context()))
		talk := chat(t, link)
		targets := []netip.AddrPort{
			netip.AddrPortFrom(aSite.Host.Addr(), a.LocalAddr().Port()),
			netip.AddrPortFrom(l.node.host.Addr(), l.node.url.Port),
			link.Path().Remote,
		}
		var wg sync.WaitGroup
		for i := range 4 {
			pc, err := l.net.Host(fmt.Sprintf("noise%d", i), natlab.HostConfig{}).ListenPacket("udp", ":0")
			check(t, err)
			defer pc.Close()
			wg.Go(func() { noise(pc, targets, uint64(i)) })
		}
		wg.Wait()
		talk.finish(t)
		t.Logf("%d answers meanwhile, the slowest after %v", talk.asks, talk.slow)
		if talk.slow > 200*time.Millisecond {
			t.Errorf("an answer took %v", talk.slow)
		}
		again, err := a.Dial(t.Context(), b.Ticket())
		check(t, err)
		check(t, again.WaitDirect(t.Context()))
	})
}

// noise sends 5,000 datagrams that look like something.
func noise(pc net.PacketConn, targets []netip.AddrPort, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	for i := range 5000 {
		b := make([]byte, rng.IntN(1300))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		if len(b) > 28 {
			switch i % 6 {
			case 0: // STUN
				binary.BigEndian.PutUint16(b, uint16(rng.IntN(0x0118)))
				binary.BigEndian.PutUint16(b[2:], uint16((len(b)-20)&^3))
				binary.BigEndian.PutUint32(b[4:], 0x2112a442)
				b = b[:20+(len(b)-20)&^3]
			case 1: // channel data
				b[0] = 0x40
				binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
			case 2: // a check
				b[0] = 0x21
			case 3: // a QUIC Initial
				b[0], b[1], b[2], b[3], b[4] = 0xc0, 0, 0, 0, 1
			case 4: // a QUIC short header
				b[0] = 0x40 | b[0]&0x3f
			}
		}
		pc.WriteTo(b, net.UDPAddrFromAddrPort(targets[i%len(targets)]))
		if i%10 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// TestSignallingFlood: "1e4 msg/s at one victim: its queue bounded, others' p99
// unchanged": while fifty peers call one host as fast as they can, another pair
// dials as usual, and so does one that the victim knows, a little slower.
func TestSignallingFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		victim, a, b := l.site(natlab.SitePortRestricted, "victim"), l.site(natlab.SitePortRestricted, "a"), l.site(natlab.SitePortRestricted, "b")
		l.ready(victim, a, b)
		go echo(victim)
		go echo(b)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		ends := map[string]int{}
		for i := range 50 {
			m := l.mallory(fmt.Sprintf("mallory%d", i), nil)
			wg.Go(func() {
				for ctx.Err() == nil {
					call, err := m.client.Call(ctx, victim.PeerID(), m.offer(t, victim.PeerID()))
					if err == nil {
						wg.Go(func() {
							defer call.Close()
							_, err := call.Receive(ctx)
							mu.Lock()
							defer mu.Unlock()
							ends[fmt.Sprint(err)]++
						})
					}
					time.Sleep(5 * time.Millisecond) // 10,000 calls a second in all
				}
			})
		}
		time.Sleep(time.Second)
		for i := range 3 {
			start := time.Now()
			link, err := a.Dial(t.Context(), b.Ticket())
			check(t, err)
			check(t, ask(t, link))
			first := time.Since(start)
			check(t, link.WaitDirect(t.Context()))
			t.Logf("dial %d beside the flood: first byte %v", i, first)
			if first > 190*time.Millisecond {
				t.Errorf("dial %d beside the flood: first byte after %v", i, first)
			}
			link.Close()
			time.Sleep(200 * time.Millisecond)
		}
		start := time.Now()
		link, err := a.Dial(t.Context(), victim.Ticket())
		t.Logf("dialing the victim itself: %v after %v", err, time.Since(start))
		if err == nil {
			link.Close()
		}
		stop()
		wg.Wait()
		t.Logf("how the calls of the flood ended: %v", ends)
		time.Sleep(30 * time.Second)
		link, err = a.Dial(t.Context(), victim.Ticket())
		check(t, err)
		check(t, ask(t, link))
	})
}
