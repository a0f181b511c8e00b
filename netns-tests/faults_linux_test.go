package netnstests

import (
	"crypto/rand"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// A node that loses power and comes back disturbs no link, and its peers find it again.
func TestNodeRestart(t *testing.T) {
	m := newMeeting(t, "")
	left, right := m.lab.site("left", kindNamed("eim-apdf")), m.lab.site("right", kindNamed("eim-apdf"))
	listener, peer := m.listen(t, right)
	running := left.sally(t, m.with(t, "ping", "-i", "100ms", "-c", "100000", "--timeout", "10m", peer)...)
	running.wantWhere("pong", func(e event) bool { return e.kind() == "direct" })

	m.serv.kill()
	for range 20 {
		running.want("pong") // a direct link needs no node
	}
	again, url := startNode(t, m.node, m.data, "")
	m.serv = again
	want(t, "the node's URL after its restart", url, m.url)
	for range 20 {
		running.want("pong")
	}
	r := m.pingUntilFound(t, left, peer)
	if r.code != exitDone {
		r.fatalf("a ping after the restart ended with %d\n%s\n%s", r.code, listener.transcript(), again.transcript())
	}
	running.want("pong")
}

// pingUntilFound calls until the listener has registered anew; each call that
// comes before that takes its time to find the peer offline.
func (m *meeting) pingUntilFound(t *testing.T, at *place, peer string) result {
	t.Helper()
	start := time.Now()
	for calls := 1; ; calls++ {
		r := m.ping(t, at, peer, "-c", "3", "-i", "100ms", "--timeout", "10s")
		if r.code != exitOffline || time.Since(start) > longEnough {
			t.Logf("%.1f s after the node was back, call %d ended with %d", time.Since(start).Seconds(), calls, r.code)
			return r
		}
	}
}

func TestUnknownPeer(t *testing.T) {
	m := newMeeting(t, "")
	site := m.lab.site("site", kindNamed("eim-apdf"))
	identity := filepath.Join(t.TempDir(), "nobody.key")
	nobody := site.sally(t, "id", "--identity", identity, "--json").want("id").Peer
	r := m.ping(t, site, nobody, "-c", "3", "--timeout", "20s")
	if r.code != exitOffline {
		r.fatalf("exit code %d for a peer that is not there, want %d", r.code, exitOffline)
	}
	if len(r.complaints()) == 0 {
		r.fatalf("nothing on stderr says that the peer is offline")
	}
}

// An allowed peer does not open the door to others.
func TestRefused(t *testing.T) {
	m := newMeeting(t, "")
	left, right := m.lab.site("left", kindNamed("eim-apdf")), m.lab.site("right", kindNamed("eim-apdf"))
	identity := filepath.Join(t.TempDir(), "friend.key")
	friend := left.sally(t, "id", "--identity", identity, "--json").want("id").Peer
	listener, peer := m.listenFor(t, right, friend)
	stranger := m.ping(t, left, peer, "-c", "3", "--timeout", "20s")
	if stranger.code != exitRefused {
		stranger.fatalf("exit code %d, want %d\n%s", stranger.code, exitRefused, listener.transcript())
	}
	if len(stranger.all("pong")) > 0 {
		stranger.fatalf("a peer that refuses has answered")
	}
	r := left.sally(t, "ping", "--node", m.url, "--identity", identity, "--json", "-c", "3", "-i", "100ms", peer).result()
	if r.code != exitDone {
		r.fatalf("exit code %d for the peer that is allowed\n%s", r.code, listener.transcript())
	}
}

// Nobody may call unless allowed: a listener that allows nobody is a mistake, and says so.
func TestListenAllowsNobody(t *testing.T) {
	m := newMeeting(t, "")
	r := m.node.sally(t, m.with(t, "listen", "--echo")...).result()
	if r.code != exitUsage || len(r.complaints()) == 0 {
		r.fatalf("exit code %d, want %d and a line that says what is missing", r.code, exitUsage)
	}
}

// Random packets at the node's and a peer's ports disturb nothing.
func TestGarbage(t *testing.T) {
	m := newMeeting(t, "")
	left, right := m.lab.site("left", kindNamed("eim-apdf")), m.lab.site("right", kindNamed("eim-eif"))
	attacker := m.lab.server("attacker", 1)
	listener, peer := m.listen(t, right)
	const pings = "60"
	running := left.sally(t, m.with(t, "ping", "-i", "50ms", "-c", pings, "--timeout", "60s", peer)...)
	direct := running.wantWhere("pong", func(e event) bool { return e.kind() == "direct" })
	victim, err := netip.ParseAddrPort(direct.Path.Remote)
	if err != nil {
		running.fatalf("the path's remote is not an address and port: %v", err)
	}
	node := netip.AddrPortFrom(m.node.public[0], 3478)
	spray(t, attacker, []netip.AddrPort{victim, node, netip.AddrPortFrom(m.node.public[1], 3478)})
	r := running.result()
	if r.code != exitDone {
		r.fatalf("exit code %d under garbage\n%s\n%s", r.code, listener.transcript(), m.serv.transcript())
	}
	if done := r.done(); done.Received*10 < done.Sent*9 {
		r.fatalf("%d of %d pings were answered under garbage", done.Received, done.Sent)
	}
	late := m.ping(t, left, peer, "-c", "3", "-i", "100ms", "--timeout", "20s")
	if late.code != exitDone {
		late.fatalf("exit code %d after the garbage\n%s", late.code, m.serv.transcript())
	}
}

// spray sends random packets of every small and some large sizes, each beginning
// once as STUN, as ChannelData, as a short and as a long QUIC header.
func spray(t *testing.T, from *place, targets []netip.AddrPort) {
	t.Helper()
	socket := open(t, from, netip.AddrPortFrom(from.address, 0))
	for size := 0; size <= 1472; size += 1 + size/32 {
		for _, first := range []byte{0x00, 0x01, 0x40, 0x80, 0xc0} {
			packet := make([]byte, size)
			_, _ = rand.Read(packet)
			if size > 0 {
				packet[0] = first | packet[0]&0x0f
			}
			for _, to := range targets {
				if _, err := socket.WriteToUDPAddrPort(packet, to); err != nil {
					t.Fatalf("sending garbage to %v: %v", to, err)
				}
			}
		}
	}
}
