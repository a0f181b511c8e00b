package netnstests

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// twoServers lays a wire of the given quality between a server and a site with
// a public address and returns a prober over it.
func proberOver(t *testing.T, q wireQuality) *prober {
	l := newLab(t)
	server := l.server("server", 2)
	l.uplink = q
	return newProber(t, server, l.site("site", kindNamed("none")))
}

func TestWireDelaysEachWay(t *testing.T) {
	const delay = 20 * time.Millisecond
	p := proberOver(t, wireQuality{delay: delay})
	socket := p.inside()
	best := time.Hour
	for range 10 {
		start := time.Now()
		seen := p.seen(socket, 0)
		p.send(p.corners[0], seen, "back")
		if _, ok := p.receive(socket, "back", patience); !ok {
			t.Fatal("the answer did not arrive")
		}
		best = min(best, time.Since(start))
	}
	t.Logf("round trip over two times %v: %v", delay, best)
	if best < 2*delay {
		t.Errorf("a round trip took %v, less than the wire's delay allows", best)
	}
}

func TestWireLosesPackets(t *testing.T) {
	p := proberOver(t, wireQuality{loss: 0.5})
	socket := p.inside()
	const packets = 400
	for range packets {
		p.send(socket, endpoint(p.corners[0]), "maybe")
	}
	arrived := 0
	for {
		if _, ok := p.receive(p.corners[0], "maybe", silence); !ok {
			break
		}
		arrived++
	}
	t.Logf("%d of %d packets arrived", arrived, packets)
	if arrived == 0 || arrived > packets*3/4 { // fair coins: 3/4 of 400 heads happens never
		t.Errorf("%d of %d packets arrived over a wire that loses half", arrived, packets)
	}
}

func TestWireLimitsTheRate(t *testing.T) {
	p := proberOver(t, wireQuality{rate: 1_000_000, queue: 10 * time.Second})
	socket := p.inside()
	text := string(make([]byte, 1000))
	start := time.Now()
	const packets = 50
	for range packets {
		p.send(socket, endpoint(p.corners[0]), text)
	}
	for range packets {
		if _, ok := p.receive(p.corners[0], text, patience); !ok {
			t.Fatal("the queue of a slow wire lost a packet")
		}
	}
	const least = packets * 1000 * 8 * time.Second / 1_000_000
	if took := time.Since(start); took < least {
		t.Errorf("%d kB at 1 Mbit/s took %v, want at least %v", packets, took, least)
	}
}

// The measure is printed: TCP through a cone NAT and the wire, kernel to kernel.
func TestWireThroughput(t *testing.T) {
	l := newLab(t)
	server, client := l.server("server", 1), l.site("client", kindNamed("eim-apdf"))
	var listener net.Listener
	l.must(server.do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(server.address, 0)))
		return err
	}))
	defer listener.Close()
	var out net.Conn
	l.must(client.do(func() (err error) {
		out, err = (&net.Dialer{Timeout: patience}).Dial("tcp4", listener.Addr().String())
		return err
	}))
	go func() {
		defer out.Close()
		_, _ = io.CopyN(out, zeros{}, 100<<20)
	}()
	in, err := listener.Accept()
	l.must(err)
	defer in.Close()
	start := time.Now()
	n, err := io.Copy(io.Discard, in)
	if err != nil || n != 100<<20 {
		t.Fatalf("%d bytes arrived: %v", n, err)
	}
	t.Logf("TCP through the wire: %.0f Mbit/s", float64(n)*8/time.Since(start).Seconds()/1e6)
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A burst that the kernel holds as one large segment (UDP_SEGMENT) crosses NAT
// and wire and arrives as the packets it stands for.
func TestWireCarriesSegments(t *testing.T) {
	l := newLab(t)
	server, client := l.server("server", 2), l.site("client", kindNamed("eim-apdf"))
	p := newProber(t, server, client)
	socket := p.inside()
	const packets, size = 20, 1200
	if err := setSegment(socket, size); err != nil {
		t.Skipf("SKIPPED: this kernel has no UDP_SEGMENT: %v", err)
	}
	p.send(socket, endpoint(p.corners[0]), string(make([]byte, packets*size)))
	for n := range packets {
		if _, ok := p.receive(p.corners[0], string(make([]byte, size)), patience); !ok {
			t.Fatalf("%d of %d segments arrived", n, packets)
		}
	}
}
