package netnstests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// A prober asks a NAT what it is, from both sides and with plain sockets only.
// Its server has two addresses with two ports each: corner 0 is the first address
// and port, 1 another port, 2 another address, 3 both others.
type prober struct {
	t       *testing.T
	site    *place
	corners [4]*net.UDPConn
}

const (
	patience = 5 * time.Second        // for a packet that must arrive, however slow the machine
	silence  = 150 * time.Millisecond // for one that must not, after another has shown the way is open
)

func newProber(t *testing.T, server, site *place) *prober {
	t.Helper()
	p := &prober{t: t, site: site}
	for i := range p.corners {
		port := 7000 + 2*uint16(site.number) + uint16(i%2)
		p.corners[i] = open(t, server, netip.AddrPortFrom(server.public[i/2], port))
	}
	return p
}

// open opens a UDP socket at a place until the test ends.
func open(t *testing.T, at *place, local netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := at.listenUDP(local)
	if err != nil {
		t.Fatalf("opening a socket: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// inside opens a fresh socket of the inside host.
func (p *prober) inside() *net.UDPConn {
	p.t.Helper()
	return open(p.t, p.site, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
}

func endpoint(c *net.UDPConn) netip.AddrPort {
	at := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

func (p *prober) send(from *net.UDPConn, to netip.AddrPort, text string) {
	p.t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(text), to); err != nil {
		p.t.Fatalf("sending from %v to %v: %v", from.LocalAddr(), to, err)
	}
}

// next returns the next packet and its sender; ok is false if nothing came in time.
func (p *prober) next(at *net.UDPConn, deadline time.Time) (text string, from netip.AddrPort, ok bool) {
	p.t.Helper()
	buffer := make([]byte, 2048)
	_ = at.SetReadDeadline(deadline)
	n, from, err := at.ReadFromUDPAddrPort(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", netip.AddrPort{}, false
	}
	if err != nil {
		p.t.Fatalf("receiving at %v: %v", at.LocalAddr(), err)
	}
	return string(buffer[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), true
}

// receive waits for a packet that says text and returns its sender.
func (p *prober) receive(at *net.UDPConn, text string, wait time.Duration) (netip.AddrPort, bool) {
	p.t.Helper()
	for deadline := time.Now().Add(wait); ; {
		got, from, ok := p.next(at, deadline)
		if !ok || got == text {
			return from, ok
		}
	}
}

// seen sends from an inside socket to a corner and returns what the corner saw.
func (p *prober) seen(from *net.UDPConn, corner int) netip.AddrPort {
	p.t.Helper()
	text := fmt.Sprintf("seen by %d", corner)
	p.send(from, endpoint(p.corners[corner]), text)
	at, ok := p.receive(p.corners[corner], text, patience)
	if !ok {
		p.t.Fatalf("corner %d saw nothing of %v", corner, from.LocalAddr())
	}
	return at
}

// mapping sends from one socket to all four corners and compares what they saw.
// RFC 4787 section 4.1: the NAT "reuses the port mapping for subsequent packets
// sent from the same internal IP address and port" to any, to the same address,
// or only to the same address and port.
func (p *prober) mapping() behaviour {
	p.t.Helper()
	socket := p.inside()
	var seen [4]netip.AddrPort
	for i := range seen {
		seen[i] = p.seen(socket, i)
	}
	p.t.Logf("socket %v of %v is seen as %v", socket.LocalAddr(), p.site.address, seen)
	inside := netip.AddrPortFrom(p.site.address, endpoint(socket).Port())
	distinct := map[netip.AddrPort]bool{}
	for _, s := range seen {
		distinct[s] = true
		if s.Addr() != p.site.public[0] {
			p.t.Errorf("the internet sees %v, not the site's address %v", s, p.site.public[0])
		}
	}
	switch {
	case seen[0] == inside && len(distinct) == 1:
		return noTranslation
	case len(distinct) == 1:
		return independent
	case seen[0] == seen[1] && seen[2] == seen[3] && len(distinct) == 2:
		return byAddress
	case len(distinct) == 4:
		return byAddressPort
	}
	return "none that RFC 4787 names"
}

// filtering opens a mapping towards corner 0 and lets all corners knock. The
// packet of corner 0 goes last: once it is there, the others had their chance.
// RFC 4787 section 5.
func (p *prober) filtering() behaviour {
	p.t.Helper()
	socket := p.inside()
	outside := p.seen(socket, 0)
	for _, corner := range []int{3, 2, 1, 0} {
		p.send(p.corners[corner], outside, "knock")
	}
	arrived := map[netip.AddrPort]bool{}
	for wait := patience; ; {
		from, ok := p.receive(socket, "knock", wait)
		if !ok {
			break
		}
		arrived[from] = true
		if from == endpoint(p.corners[0]) {
			wait = silence
		}
	}
	if !arrived[endpoint(p.corners[0])] {
		p.t.Fatalf("not even the answer of %v arrived", endpoint(p.corners[0]))
	}
	otherPort := arrived[endpoint(p.corners[1])]
	otherAddress := arrived[endpoint(p.corners[2])]
	both := arrived[endpoint(p.corners[3])]
	switch {
	case otherPort && otherAddress && both:
		return independent
	case otherPort && !otherAddress && !both:
		return byAddress
	case !otherPort && !otherAddress && !both:
		return byAddressPort
	}
	return "none that RFC 4787 names"
}

// steals knocks from corner 3 before the inside socket ever sent to it, then asks
// whether the socket is seen by corner 3 from another port than by the others.
func (p *prober) steals() bool {
	p.t.Helper()
	socket := p.inside()
	outside := p.seen(socket, 0)
	p.send(p.corners[3], outside, "unsolicited")
	p.send(p.corners[0], outside, "answer")
	if _, ok := p.receive(socket, "answer", patience); !ok {
		p.t.Fatal("the answer that follows the unsolicited packet did not arrive")
	}
	again := p.seen(socket, 3)
	p.t.Logf("seen as %v; after an unsolicited packet its sender sees %v", outside, again)
	return again != outside
}

// unmapped says whether a packet to a port nobody ever sent from gets in. It
// guesses that port from another socket's translation, which flips the same bits.
func (p *prober) unmapped() bool {
	p.t.Helper()
	listening := p.inside()
	mapped := p.inside()
	seen := p.seen(mapped, 0)
	offset := seen.Port() ^ endpoint(mapped).Port()
	quiet := netip.AddrPortFrom(p.site.public[0], endpoint(listening).Port()^offset)
	p.send(p.corners[0], quiet, "uninvited")
	p.send(p.corners[0], seen, "invited")
	if _, ok := p.receive(mapped, "invited", patience); !ok {
		p.t.Fatal("not even the invited packet arrived")
	}
	_, ok := p.receive(listening, "uninvited", silence)
	return ok
}

// routers counts the routers between the inside host and the internet by the
// smallest time to live that brings a packet through. A packet without that
// limit follows each, so that nobody has to wait for what was dropped.
func (p *prober) routers() int {
	p.t.Helper()
	const internet, far = 1, 64
	socket := p.inside()
	for hops := range 8 {
		for _, ttl := range []int{hops + 1, far} {
			if err := setTTL(socket, ttl); err != nil {
				p.t.Fatalf("setting the time to live: %v", err)
			}
			p.send(socket, endpoint(p.corners[0]), fmt.Sprint(ttl))
		}
		deadline := time.Now().Add(patience)
		for text := ""; text != fmt.Sprint(far); {
			var ok bool
			if text, _, ok = p.next(p.corners[0], deadline); !ok {
				p.t.Fatal("a packet with all the time to live did not arrive")
			}
			if text == fmt.Sprint(hops+1) {
				return hops - internet
			}
		}
	}
	p.t.Fatal("no packet came through with eight hops")
	return 0
}

// blocked shows that UDP goes nowhere and TCP does.
func (p *prober) blocked(server *place) bool {
	p.t.Helper()
	socket := p.inside()
	p.send(socket, endpoint(p.corners[0]), "anybody?")
	_, out := p.receive(p.corners[0], "anybody?", silence)
	p.send(p.corners[0], netip.AddrPortFrom(p.site.public[0], endpoint(socket).Port()), "hello?")
	_, in := p.receive(socket, "hello?", silence)
	if err := dialsTCP(server, p.site); err != nil {
		p.t.Errorf("TCP must pass where only UDP is blocked: %v", err)
	}
	return !out && !in
}

// The probe shares nothing with the rules it examines but the words of RFC 4787.
func TestNATsAreWhatTheyClaim(t *testing.T) {
	l := newLab(t)
	server := l.server("probe", 2)
	for _, kind := range append(kinds(), linuxKind()) {
		site := l.site(kind.name, kind)
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			examine(t, server, site)
		})
	}
}

func examine(t *testing.T, server, site *place) {
	p := newProber(t, server, site)
	kind := site.kind
	if kind.mapping == nothingPasses {
		want(t, "UDP is blocked and TCP passes", p.blocked(server), true)
		return
	}
	want(t, "mapping", p.mapping(), kind.mapping)
	want(t, "filtering", p.filtering(), kind.filtering)
	want(t, "routers on the way", p.routers(), len(kind.layers))
	if kind.mapping == independent {
		want(t, "an unsolicited packet steals the port", p.steals(), kind.steals)
		want(t, "a packet to a port without a mapping gets in", p.unmapped(), false)
	}
}

func want[T comparable](t *testing.T, what string, got, wanted T) {
	t.Helper()
	if got != wanted {
		t.Errorf("%s: got %v, want %v", what, got, wanted)
	}
}

func dialsTCP(server, client *place) error {
	var listener net.Listener
	at := netip.AddrPortFrom(server.public[0], 0)
	err := server.do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	return client.do(func() error {
		conn, err := (&net.Dialer{Timeout: patience}).Dial("tcp4", listener.Addr().String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
