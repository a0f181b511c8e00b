package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// thirdHost is a bystander whose address a hostile offer names.
type thirdHost struct {
	host *natlab.Host
	echo net.PacketConn
}

// bystander starts one, which sends every packet back to where it came from if
// reflect is set.
func (l *lab) bystander(reflect bool) *thirdHost {
	l.t.Helper()
	h := &thirdHost{host: l.net.Host("bystander", natlab.HostConfig{})}
	for port := range uint16(40) {
		pc, err := h.host.ListenPacket("udp", fmt.Sprintf(":%d", 5000+port))
		check(l.t, err)
		l.t.Cleanup(func() { pc.Close() })
		go func() { // ends with the socket
			b := make([]byte, 2000)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				if reflect {
					pc.WriteTo(b[:n], from)
				}
			}
		}()
	}
	return h
}

// candidates names n of the bystander's ports as if they were the caller's.
func (h *thirdHost) candidates(n int) (out []holepunch.Candidate) {
	for port := range uint16(n) {
		out = append(out, holepunch.Candidate{Kind: holepunch.ServerReflexive, Addr: netip.AddrPortFrom(h.host.Addr(), 5000+port)})
	}
	return out
}

// TestThirdHost: "making peers send to victims": an offer with another host's
// address makes the callee send it little, also where calls come as fast as the
// node lets them, and where that host reflects every packet.
func TestThirdHost(t *testing.T) {
	for _, calls := range []int{1, 50} {
		for _, reflect := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d_calls_reflecting_%v", calls, reflect), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runThirdHost(t, calls, reflect) })
			})
		}
	}
}

// maxTowardsStranger bounds what a host sends to an address that never proved to
// be the caller's, per attack: docs/security.md, "Point you at others".
const maxTowardsStranger = 600

func runThirdHost(t *testing.T, calls int, reflect bool) {
	wire := newTap()
	l := newLab(t, natlab.Config{Tap: wire.see})
	l.startNode(true)
	host, friend := l.site(natlab.SiteNone, "host"), l.site(natlab.SitePortRestricted, "friend")
	l.ready(host, friend)
	go echo(host)
	m, victim := l.mallory("mallory", nil), l.bystander(reflect)
	received := 0
	for range calls {
		offer := m.offer(t, host.PeerID(), victim.candidates(32)...)
		received += len(offer)
		call, err := m.client.Call(t.Context(), host.PeerID(), offer)
		check(t, err)
		defer call.Close()
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(2 * time.Minute)
	n := wire.sent("host", func(a netip.Addr) bool { return a == victim.host.Addr() })
	t.Logf("%d calls with 32 addresses of a third host: %d packets to it", calls, n)
	if n > maxTowardsStranger {
		t.Errorf("%d packets to a host that has nothing to do with it, want at most %d", n, maxTowardsStranger)
	}
	link, err := friend.Dial(t.Context(), host.Ticket())
	check(t, err)
	check(t, link.WaitDirect(t.Context()))
	check(t, ask(t, link))
}
