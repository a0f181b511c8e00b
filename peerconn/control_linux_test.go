package peerconn

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

func TestSegmentControl(t *testing.T) {
	for _, size := range []int{1, 1200, 1440, 65535} {
		if got := segmentSize(segmentControl(size)); got != size {
			t.Errorf("segment size %d is read as %d", size, got)
		}
		both := append(ttlControl(9, netip.AddrFrom4([4]byte{})), segmentControl(size)...)
		if got := segmentSize(both); got != size {
			t.Errorf("segment size %d behind another message is read as %d", size, got)
		}
	}
	whole := segmentControl(1200)
	for n := range unix.CmsgLen(2) {
		if got := segmentSize(whole[:n]); got != 0 {
			t.Errorf("%d of %d bytes are read as %d", n, len(whole), got)
		}
	}
	if got := segmentSize(ttlControl(3, netip.IPv6Unspecified())); got != 0 {
		t.Errorf("a hop limit is read as segment size %d", got)
	}
}

func TestOffloadFailed(t *testing.T) {
	if !offloadFailed(&net.OpError{Err: unix.EIO}) || offloadFailed(unix.ENETUNREACH) || offloadFailed(nil) {
		t.Error("only EIO says that segmentation is not there")
	}
}

// A check can leave with another time to live than the rest.
func TestSendTTL(t *testing.T) {
	for network, at := range map[string]string{"udp4": "127.0.0.1:0", "udp6": "[::1]:0"} {
		t.Run(network, func(t *testing.T) {
			to, err := net.ListenPacket(network, at)
			if err != nil {
				t.Skip("this machine has no ", network, " loopback: ", err)
			}
			defer to.Close()
			from, err := net.ListenPacket(network, at)
			check(t, err)
			defer from.Close()
			s, _ := testSocket(from)
			peer := to.LocalAddr().(*net.UDPAddr).AddrPort()
			received := receiveTTL(t, to, network)
			check(t, s.sendTTL(aCheck, peer, 0))
			usual := received()
			check(t, s.sendTTL(aCheck, peer, 3))
			if got := received(); got != 3 {
				t.Errorf("left with a time to live of %d, want 3", got)
			}
			check(t, s.sendTTL(aCheck, peer, 0))
			if got := received(); got != usual || usual == 3 {
				t.Errorf("the next one left with %d, want the usual %d", got, usual)
			}
		})
	}
}

// receiveTTL returns a func that reads a datagram and returns its time to live.
func receiveTTL(t *testing.T, c net.PacketConn, network string) func() int {
	t.Helper()
	b := make([]byte, 1500)
	if network == "udp4" {
		p := ipv4.NewPacketConn(c)
		check(t, p.SetControlMessage(ipv4.FlagTTL, true))
		return func() int {
			_, m, _, err := p.ReadFrom(b)
			check(t, err)
			return m.TTL
		}
	}
	p := ipv6.NewPacketConn(c)
	check(t, p.SetControlMessage(ipv6.FlagHopLimit, true))
	return func() int {
		_, m, _, err := p.ReadFrom(b)
		check(t, err)
		return m.HopLimit
	}
}

// A run of datagrams in one write arrives as datagrams, by the kernel's
// segmentation where it is direct and one by one through a relay.
func TestSegmentsArrive(t *testing.T) {
	from, to := loopback(t), loopback(t)
	s, _ := testSocket(from)
	r := testRoute(t, s)
	at := to.LocalAddr().(*net.UDPAddr)
	relayed := &relayedSends{}
	run := []byte("aaaabbbbcc")
	for name, way := range map[string]*target{
		"socket": {remote: at},
		"relay":  {remote: at, relay: relayed},
	} {
		t.Run(name, func(t *testing.T) {
			r.target.Store(way)
			if err := r.write(run, 4); err != nil {
				t.Skip("this kernel does not cut segments: ", err)
			}
			var got []string
			if way.relay != nil {
				got = relayed.sent
			}
			for b := make([]byte, 100); len(got) < 3; {
				n, _, err := to.ReadFrom(b)
				check(t, err)
				got = append(got, string(b[:n]))
			}
			if len(got) != 3 || got[0] != "aaaa" || got[1] != "bbbb" || got[2] != "cc" {
				t.Errorf("arrived: %q", got)
			}
			if tail := string(r.tail.get()); tail != "cc" {
				t.Errorf("the last datagram is remembered as %q", tail)
			}
		})
	}
	if err := r.writeTarget(&target{remote: at, relay: &relayedSends{err: errors.New("gone")}}, run, 4); err == nil {
		t.Error("a relay's error is lost")
	}
}

// relayedSends is a relay that remembers what it was given.
type relayedSends struct {
	sent []string
	err  error
}

func (r *relayedSends) WriteTo(b []byte, _ netip.AddrPort) (int, error) {
	r.sent = append(r.sent, string(b))
	return len(b), r.err
}
