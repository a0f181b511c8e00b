package peerconn

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
)

// PathKind says what lies between the two ends of a path. The zero PathKind
// means that there is no path.
type PathKind uint8

const (
	PathNone   PathKind = iota // nothing carries data
	PathNode                   // the rendezvous node, within its narrow bounds, while better is looked for
	PathRelay                  // a TURN relay
	PathDirect                 // nobody but routers and NATs
	PathLAN                    // the same network
)

// String returns "lan", "direct", "relay", "node" or "none".
func (k PathKind) String() string {
	switch k {
	case PathNode:
		return "node"
	case PathRelay:
		return "relay"
	case PathDirect:
		return "direct"
	case PathLAN:
		return "lan"
	}
	return "none"
}

// Direct reports whether packets pass between the two peers without a third
// machine of ours: kinds lan and direct.
func (k PathKind) Direct() bool { return k == PathDirect || k == PathLAN }

// Path is one way to the peer.
type Path struct {
	Kind      PathKind
	Remote    netip.AddrPort // where our packets go: the peer as we see it, or the relay's address for it, or the node
	Via       string         // the relay's or node's name; "" on direct paths
	Transport string         // "udp"
	RTT       time.Duration  // smoothed round trip of checks; 0 where none was measured yet
}

// String returns a form for people, such as "direct 5.1.2.3:4242 (12.3 ms)".
func (p Path) String() string {
	s := p.Kind.String()
	if p.Remote.IsValid() {
		s += " " + p.Remote.String()
	}
	if p.Via != "" {
		s += " via " + p.Via
	}
	if p.RTT > 0 {
		s += fmt.Sprintf(" (%.1f ms)", float64(p.RTT.Microseconds())/1000)
	}
	return s
}

// same reports whether p and o are the same way, whatever its round trip is now.
func (p Path) same(o Path) bool {
	p.RTT, o.RTT = 0, 0
	return p == o
}

// Event is one change of the path that carries a link's outgoing data.
type Event struct {
	Time     time.Time
	From, To Path
	Why      string
}

// PathReport is what is known about one path that was tried.
type PathReport struct {
	Path
	State holepunch.State
	Why   string // of a failed or silent path: how far it got
}

func kindOf(k holepunch.PathKind) PathKind {
	switch k {
	case holepunch.LAN:
		return PathLAN
	case holepunch.Direct:
		return PathDirect
	}
	return PathRelay
}

func publicPath(s holepunch.PathStatus) Path {
	return Path{Kind: kindOf(s.Kind), Remote: s.Path.Remote, Via: s.Via, Transport: "udp", RTT: s.RTT}
}
