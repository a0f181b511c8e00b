package server

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/relay"
)

// TestAmplification: no unauthenticated request is answered with more than three times its bytes.
func TestAmplification(t *testing.T) {
	s := start(t, func(c *Config) { c.Realm = "twelve bytes"; c.Rates = Rates{PerPrefix: -1, Global: -1} })
	c := newUser(t, s, "alice")
	c.challenge()
	nonce, integrity := c.nonce, attr(stun.AttrMessageIntegrity, make([]byte, 20)...)
	if len(nonce) > 24 {
		t.Errorf("nonce of %d bytes", len(nonce))
	}
	unknown := attr(0x7ff0)
	methods := []stun.Method{
		stun.MethodBinding, stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind,
	}
	bodies := map[string][]stun.Setter{
		"bare":            nil,
		"with transport":  {transportUDP},
		"unknown":         {unknown, unknown, unknown},
		"forged":          {integrity},
		"stale nonce":     {stun.NewUsername("1:a"), stun.NewRealm("x"), stun.NewNonce("x"), integrity},
		"wrong integrity": {stun.NewUsername(c.username), stun.NewRealm(c.realm), nonce, integrity},
		"no username":     {stun.NewRealm(c.realm), nonce, integrity},
	}
	answered, worst := 0, 0.0
	for _, method := range methods {
		for name, body := range bodies {
			b := build(t, append([]stun.Setter{request1(method)}, body...)...)
			marker := build(t, request1(stun.MethodBinding))
			c.send(b)
			c.send(marker)
			out := 0
			for {
				got := c.receive("marker")
				if string(got[8:20]) == string(marker[8:20]) {
					break
				}
				out += len(got)
			}
			ratio := float64(out) / float64(len(b))
			if worst = max(worst, ratio); ratio > 3 {
				t.Errorf("%v %s: %d bytes for %d", method, name, out, len(b))
			}
			if out > 0 {
				answered++
			}
		}
	}
	if answered < 15 {
		t.Errorf("only %d of the requests were answered: nothing was measured", answered)
	}
	c.wantSilence(build(t, request1(stun.MethodAllocate)), "an Allocate too small to be one")
	t.Logf("%d answered, at most %.2f bytes for one", answered, worst)
}

// TestLimiter: beyond the bucket of a prefix there is silence; others and users are still served.
func TestLimiter(t *testing.T) {
	s := start(t, func(c *Config) { c.Rates = Rates{PerPrefix: 5} })
	user := newUser(t, s, "alice")
	user.want(0, "before", stun.MethodAllocate, transportUDP)
	flood := newRaw(t, s, "x", "x")
	for range 60 { // beyond the burst of 20, within a socket's buffer
		flood.send(build(t, request1(stun.MethodAllocate), transportUDP))
	}
	user.want(0, "a user in the middle of it", stun.MethodRefresh)
	deadline := time.Now().Add(waitTime)
	for s.Stats().Limited == 0 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if got := s.Stats().Limited; got == 0 {
		t.Error("a flood was answered to the end")
	}
	if l := newLimiter(Rates{PerPrefix: 1}); !l.allow(netip.MustParseAddr("192.0.2.1")) {
		t.Error("a new prefix is refused")
	}
}

func TestLimiterBuckets(t *testing.T) {
	l := newLimiter(Rates{PerPrefix: 2, Global: 10})
	count := func(addr string, n int) (allowed int) {
		for range n {
			if l.allow(netip.MustParseAddr(addr)) {
				allowed++
			}
		}
		return allowed
	}
	if got := count("198.51.100.1", 20); got < 8 || got > 9 {
		t.Errorf("a prefix got %d, want its burst of 8", got)
	}
	if got := count("198.51.100.200", 20); got > 1 {
		t.Errorf("a neighbour in the same /24 got %d more", got)
	}
	if got := count("2001:db8::1", 20); got < 8 || got > 9 {
		t.Errorf("an IPv6 prefix got %d, want its burst of 8", got)
	}
	if got := count("2001:db8:0:ff::1", 20); got > 1 {
		t.Errorf("a neighbour in the same /56 got %d more", got)
	}
	if got := count("203.0.113.1", 20); got > 6 {
		t.Errorf("a third got %d of the global burst's last 4", got)
	}
}

// TestNegativeIsOff: a negative rate or quota limits nothing.
func TestNegativeIsOff(t *testing.T) {
	l := newLimiter(Rates{PerPrefix: -1, Global: -1})
	for range 100_000 {
		if !l.allow(netip.MustParseAddr("192.0.2.1")) {
			t.Fatal("limited")
		}
	}
}

// fakeConn is a socket into which a test pours packets of any source.
type fakeConn struct {
	next    func(b []byte) (n int, from netip.AddrPort, ok bool)
	written int
	drained chan struct{}
	closed  chan struct{}
}

func (c *fakeConn) ReadFrom(b []byte) (int, net.Addr, error) {
	if n, from, ok := c.next(b); ok {
		return n, net.UDPAddrFromAddrPort(from), nil
	}
	close(c.drained)
	<-c.closed
	return 0, nil, net.ErrClosed
}

func (c *fakeConn) WriteTo(b []byte, _ net.Addr) (int, error) { c.written++; return len(b), nil }
func (c *fakeConn) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3478}
}
func (c *fakeConn) Close() error                     { close(c.closed); return nil }
func (c *fakeConn) SetDeadline(time.Time) error      { return nil }
func (c *fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (c *fakeConn) SetWriteDeadline(time.Time) error { return nil }

// pour runs a server on packets made by next until there are no more.
func pour(t *testing.T, next func(b []byte) (int, netip.AddrPort, bool), rates Rates) (*Server, *fakeConn) {
	conn := &fakeConn{next: next, drained: make(chan struct{}), closed: make(chan struct{})}
	s := start(t, func(c *Config) {
		_ = c.Conns[0].Close()
		c.Conns, c.Rates = []net.PacketConn{conn}, rates
	})
	<-conn.drained
	return s, conn
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSpoofedSources: a million sources that never come back leave nothing behind, answered or not.
func TestSpoofedSources(t *testing.T) {
	sources := 1_000_000
	if testing.Short() {
		sources = 50_000
	}
	username, _ := relay.MintCredential(testSecret, "alice", time.Now().Add(time.Minute))
	packets := [][]byte{
		build(t, request1(stun.MethodAllocate), transportUDP),
		build(t, request1(stun.MethodBinding)),
		build(t, request1(stun.MethodAllocate), transportUDP, stun.NewUsername(username), stun.NewRealm("sally"),
			stun.NewNonce("0"), attr(stun.AttrMessageIntegrity, make([]byte, 20)...)),
		build(t, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAt(netip.MustParseAddrPort("8.8.8.8:9")), attr(stun.AttrData, 1)),
		{0x40, 0, 0, 1, 1},
		{0xff, 0xff},
	}
	for name, rates := range map[string]Rates{"limited": {}, "all answered": {PerPrefix: -1, Global: -1}} {
		t.Run(name, func(t *testing.T) {
			sources := sources
			if rates.Global < 0 {
				sources /= 5 // each costs an answer
			}
			i, before := 0, uint64(0)
			s, conn := pour(t, func(b []byte) (int, netip.AddrPort, bool) {
				if i == 1000 { // everything is warm
					before = heap()
				}
				if i == sources {
					return 0, netip.AddrPort{}, false
				}
				i++
				var ip [4]byte
				binary.BigEndian.PutUint32(ip[:], uint32(i)*2654435761)
				return copy(b, packets[i%len(packets)]), netip.AddrPortFrom(netip.AddrFrom4(ip), uint16(i)|1), true
			}, rates)
			grown := int64(heap()) - int64(before)
			t.Logf("%d sources: heap %+d bytes, %d answers, %+v", sources, grown, conn.written, s.Stats())
			if grown > 10<<20 {
				t.Errorf("heap grew by %d bytes", grown)
			}
			if conn.written == 0 {
				t.Error("nothing was answered: nothing was measured")
			}
			if rates.Global == 0 && !testing.Short() && s.Stats().Limited == 0 {
				t.Error("nothing was limited")
			}
		})
	}
}
