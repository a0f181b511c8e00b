package netnstests

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// What the matrix expects of the command is first shown with two plain sockets
// that learn their mapped addresses from a server and then knock at each other,
// nothing more. A cell that fails in TestMatrix and passes here is the command's fault.
func TestExpectationsArePhysics(t *testing.T) {
	l := newLab(t)
	server := l.server("server", 2)
	var lefts, rights []*place
	for _, k := range kinds() {
		if k.mapping != nothingPasses { // the probe has shown that nothing gets out
			lefts = append(lefts, l.site("left-"+k.name, k))
			rights = append(rights, l.site("right-"+k.name, k))
		}
	}
	for i, left := range lefts {
		for j, right := range rights {
			port := uint16(8000 + i*len(rights) + j)
			t.Run(fmt.Sprintf("%s_x_%s", left.kind.name, right.kind.name), func(t *testing.T) {
				t.Parallel()
				mirror := open(t, server, netip.AddrPortFrom(server.public[0], port))
				direct := expected(left.kind, right.kind).kind == "direct"
				wait := patience
				if !direct {
					wait = 3 * silence
				}
				want(t, "direct", knockAtEachOther(t, mirror, left, right, wait), direct)
			})
		}
	}
}

// knockAtEachOther reports whether packets got through both ways in time.
func knockAtEachOther(t *testing.T, mirror *net.UDPConn, left, right *place, wait time.Duration) bool {
	t.Helper()
	var sockets [2]*net.UDPConn
	var seen [2]netip.AddrPort
	for i, site := range []*place{left, right} {
		p := &prober{t: t, site: site, corners: [4]*net.UDPConn{mirror}}
		sockets[i] = p.inside()
		seen[i] = p.seen(sockets[i], 0)
	}
	var heard [2]bool
	var both sync.WaitGroup
	for i := range sockets {
		both.Go(func() { heard[i] = knock(sockets[i], seen[1-i], wait) })
	}
	both.Wait()
	return heard[0] && heard[1]
}

// knock sends to a mapped address, and to wherever a knock came from, until the
// other side says that it has heard; then it says so itself for the last time.
func knock(socket *net.UDPConn, at netip.AddrPort, wait time.Duration) bool {
	const pause = 50 * time.Millisecond
	buffer := make([]byte, 64)
	text, answered := "knock", false
	for end := time.Now().Add(wait); !answered && time.Now().Before(end); {
		_, _ = socket.WriteToUDPAddrPort([]byte(text), at) // a refusal of an earlier packet is no failure
		_ = socket.SetReadDeadline(time.Now().Add(pause))
		for !answered {
			n, from, err := socket.ReadFromUDPAddrPort(buffer)
			if err != nil {
				break
			}
			at, answered = from, string(buffer[:n]) == "heard"
			text = "heard"
		}
	}
	_, _ = socket.WriteToUDPAddrPort([]byte(text), at)
	return answered
}
