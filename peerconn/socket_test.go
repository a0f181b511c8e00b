package peerconn

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/ipv4"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/internal/packet"
)

// fakeConn is a packet socket without a network: the test puts in what arrives
// and takes out what was sent.
type fakeConn struct {
	mu       sync.Mutex
	changed  *sync.Cond
	arrived  []letter
	sent     []letter
	fail     error // what the next read returns
	deadline time.Time
	closed   bool
}

func newFakeConn() *fakeConn {
	c := &fakeConn{}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *fakeConn) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.changed.Broadcast()
}

func (c *fakeConn) arrive(b []byte, from netip.AddrPort) {
	c.set(func() { c.arrived = append(c.arrived, letter{b, net.UDPAddrFromAddrPort(from)}) })
}

func (c *fakeConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, nil, net.ErrClosed
		case c.fail != nil:
			err := c.fail
			c.fail = nil
			return 0, nil, err
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			return 0, nil, &net.OpError{Op: "read", Err: errTimeout{}}
		case len(c.arrived) > 0:
			head := c.arrived[0]
			c.arrived = c.arrived[1:]
			return copy(b, head.b), head.from, nil
		}
		c.changed.Wait()
	}
}

// errTimeout is what the net package returns after a deadline.
type errTimeout struct{}

func (errTimeout) Error() string   { return "i/o timeout" }
func (errTimeout) Timeout() bool   { return true }
func (errTimeout) Temporary() bool { return true }
func (errTimeout) Is(err error) bool {
	return err == os.ErrDeadlineExceeded
}

func (c *fakeConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.set(func() { c.sent = append(c.sent, letter{bytes.Clone(b), to}) })
	return len(b), nil
}

func (c *fakeConn) Close() error                       { c.set(func() { c.closed = true }); return nil }
func (c *fakeConn) LocalAddr() net.Addr                { return net.UDPAddrFromAddrPort(addr("192.0.2.1:1000")) }
func (c *fakeConn) SetDeadline(time.Time) error        { return errors.ErrUnsupported }
func (c *fakeConn) SetWriteDeadline(time.Time) error   { return errors.ErrUnsupported }
func (c *fakeConn) SetReadDeadline(at time.Time) error { c.set(func() { c.deadline = at }); return nil }

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// Datagrams of each class.
var (
	quicShort   = append([]byte{0x43, 0xff}, bytes.Repeat([]byte{7}, 30)...)
	quicInitial = append([]byte{0xc3, 0, 0, 0, 1}, bytes.Repeat([]byte{9}, 1195)...)
	stunBinding = append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, bytes.Repeat([]byte{5}, 12)...)
	channelData = []byte{0x40, 1, 0, 4, 'd', 'a', 't', 'a'}
	aCheck      = append([]byte{packet.CheckByte}, bytes.Repeat([]byte{3}, holepunch.CheckSize-1)...)
	garbage     = []byte{0x3f, 1, 2, 3}
)

// seen is what a socket did with one datagram.
type seen struct {
	checks, stun int
	wanted       bool // by onSTUN
}

func testSocket(pc net.PacketConn) (*socket, *seen) {
	s, got := newSocket(pc, slog.New(slog.DiscardHandler)), &seen{}
	s.onCheck = func(holepunch.Path, []byte) { got.checks++ }
	s.onSTUN = func(netip.AddrPort, []byte) bool { got.stun++; return got.wanted }
	s.routeOf = func(netip.Addr) *route { return nil }
	return s, got
}

func testRoute(t testing.TB, s *socket) *route {
	return newRoute(t.Context(), s, slog.New(slog.DiscardHandler), sallyport.PeerID{1}, holepunch.SessionConfig{})
}

func TestSort(t *testing.T) {
	stranger, node, peer := addr("203.0.113.7:7"), addr("192.0.2.5:5"), addr("198.51.100.9:9")
	for name, test := range map[string]struct {
		b       []byte
		from    netip.AddrPort
		quic    string // "" dropped, "real", "virtual"
		want    seen
		dropped uint64
	}{
		"QUIC of a stranger":         {quicInitial, stranger, "", seen{}, 1},
		"short QUIC of a stranger":   {quicShort, stranger, "", seen{}, 1},
		"QUIC of a node":             {quicShort, node, "real", seen{}, 0},
		"QUIC of a peer":             {quicShort, peer, "virtual", seen{}, 0},
		"QUIC of a peer, mapped":     {quicShort, netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), 9), "virtual", seen{}, 0},
		"from a peer's other port":   {quicShort, addr("198.51.100.9:10"), "", seen{}, 1},
		"a check":                    {aCheck, stranger, "", seen{checks: 1}, 0},
		"STUN that somebody awaits":  {stunBinding, node, "", seen{stun: 1, wanted: true}, 0},
		"STUN that nobody awaits":    {stunBinding, stranger, "", seen{stun: 1}, 1},
		"channel data nobody awaits": {channelData, stranger, "", seen{stun: 1}, 1},
		"garbage":                    {garbage, peer, "", seen{}, 1},
		"an empty datagram":          {nil, peer, "", seen{}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, got := testSocket(newFakeConn())
			got.wanted = test.want.wanted
			r := testRoute(t, s)
			s.own(holepunch.Path{Remote: peer}, r)
			defer s.admit(node)()
			from := net.UDPAddrFromAddrPort(test.from)
			as := s.sort(test.b, from)
			switch want := map[string]net.Addr{"": nil, "real": from, "virtual": r.virtual}[test.quic]; {
			case as != want:
				t.Errorf("QUIC sees it from %v, want %v", as, want)
			case *got != test.want:
				t.Errorf("handlers saw %+v, want %+v", *got, test.want)
			case s.dropped.Load() != test.dropped:
				t.Errorf("%d dropped, want %d", s.dropped.Load(), test.dropped)
			}
		})
	}
}

// "strangers get no answer at all": a whole host, its listener included, says
// nothing to QUIC, STUN, checks or garbage from an address that it does not know.
func TestStrangersGetNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeConn()
		h, err := NewHost(Config{
			Identity:     identity(t),
			Allow:        func(sallyport.PeerID) bool { return true },
			ListenPacket: func(string, string) (net.PacketConn, error) { return pc, nil },
		})
		check(t, err)
		packets := [][]byte{quicInitial, quicShort, stunBinding, channelData, aCheck, garbage,
			append([]byte{0xc3, 0xba, 0xba, 0xba, 0xba}, bytes.Repeat([]byte{1}, 1300)...)} // a version nobody knows
		for _, b := range packets {
			for range 10 {
				pc.arrive(b, addr("203.0.113.7:7777"))
			}
		}
		time.Sleep(time.Minute)
		pc.mu.Lock()
		left, answers := len(pc.arrived), len(pc.sent)
		pc.mu.Unlock()
		if left != 0 || answers != 0 {
			t.Errorf("%d packets were not read, %d answers were sent", left, answers)
		}
		check(t, h.Close())
	})
}

func TestNewestRouteOwnsAPath(t *testing.T) {
	s, _ := testSocket(newFakeConn())
	at := holepunch.Path{Remote: addr("198.51.100.9:9")}
	old, young := testRoute(t, s), testRoute(t, s)
	owner := func(what string, want net.Addr) {
		t.Helper()
		if as := s.sort(quicShort, net.UDPAddrFromAddrPort(at.Remote)); as != want {
			t.Errorf("%s: QUIC sees %v, want %v", what, as, want)
		}
	}
	s.own(at, old)
	s.own(at, young)
	s.own(at, old) // already: no change
	owner("both", young.virtual)
	s.disown(young)
	owner("the newest is gone", old.virtual)
	s.disown(old)
	owner("none", nil)
	if len(s.owners) != 0 {
		t.Errorf("%d paths are remembered", len(s.owners))
	}
}

// Routes come and go while the reader looks for the owner.
func TestOwnersUnderChange(t *testing.T) {
	s, _ := testSocket(newFakeConn())
	at := holepunch.Path{Remote: addr("198.51.100.9:9")}
	from := net.UDPAddrFromAddrPort(at.Remote)
	keeper := testRoute(t, s)
	s.own(at, keeper)
	var wg sync.WaitGroup
	for range 2 {
		r := testRoute(t, s)
		wg.Go(func() {
			for range 2000 {
				s.own(at, r)
				s.disown(r)
			}
		})
	}
	wg.Go(func() {
		for range 4000 {
			if s.sort(quicShort, from) == nil {
				t.Error("no owner, though one keeps the path")
				return
			}
		}
	})
	wg.Wait()
}

func TestAdmitCountsUsers(t *testing.T) {
	s, _ := testSocket(newFakeConn())
	node := addr("192.0.2.5:5")
	one, two := s.admit(node), s.admit(node)
	one()
	one() // again: no more
	if s.sort(quicShort, net.UDPAddrFromAddrPort(node)) == nil {
		t.Error("dropped while one user is left")
	}
	two()
	if s.sort(quicShort, net.UDPAddrFromAddrPort(node)) != nil || len(s.plain) != 0 {
		t.Error("let in when no user is left")
	}
}

// What came through the node reaches a read that is blocked already, what came
// through a relay the read that found it; a check does not, and QUIC at a relay's
// base needs an owner too.
func TestInboxWakesTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeConn()
		s, got := testSocket(pc)
		r := testRoute(t, s)
		at := holepunch.Path{Base: 1, Remote: addr("198.51.100.9:9")}
		type read struct {
			n    int
			from net.Addr
			err  error
		}
		reads := make(chan read)
		go func() {
			defer close(reads)
			for {
				n, from, err := s.ReadFrom(make([]byte, 1500))
				reads <- read{n, from, err}
				if err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		s.deliver(at, quicShort) // nobody's
		s.deliver(at, aCheck)
		s.deliver(at, stunBinding)
		synctest.Wait()
		if got.checks != 1 || got.stun != 0 || s.dropped.Load() != 2 {
			t.Errorf("checks %d, STUN %d, dropped %d", got.checks, got.stun, s.dropped.Load())
		}
		s.own(at, r)
		s.onSTUN = func(netip.AddrPort, []byte) bool {
			s.deliver(at, quicShort)
			return true
		}
		for _, arrive := range []func(){
			func() { s.inbox.put(quicShort, r.virtual) },
			func() { pc.arrive(stunBinding, at.Remote) },
			func() { s.inbox.put(quicShort, r.virtual) },
		} {
			arrive()
			if got := <-reads; got.n != len(quicShort) || got.from != net.Addr(r.virtual) || got.err != nil {
				t.Errorf("read %+v", got)
			}
		}
		pc.arrive(quicShort, at.Remote) // at the socket itself: another path
		synctest.Wait()
		pc.set(func() { pc.fail = &net.OpError{Op: "read", Err: os.NewSyscallError("recvfrom", syscall.ECONNREFUSED)} })
		synctest.Wait() // an ICMP error of an earlier packet ends nothing
		s.own(holepunch.Path{Remote: at.Remote}, r)
		pc.arrive(quicShort, at.Remote)
		if got := <-reads; got.err != nil {
			t.Errorf("read %+v", got)
		}
		s.SetReadDeadline(time.Now()) // as quic.Transport does when it closes
		if got := <-reads; !errors.Is(got.err, net.ErrClosed) {
			t.Errorf("after closing: %+v", got)
		}
	})
}

func TestInboxIsBounded(t *testing.T) {
	woken := 0
	q := inbox{wake: func() { woken++ }}
	from := newVirtual()
	for range maxInbox + 10 {
		q.put(quicShort, from)
	}
	b := make([]byte, 1500)
	taken := 0
	for {
		n, as, ok := q.take(b)
		if !ok {
			break
		}
		if !bytes.Equal(b[:n], quicShort) || as != net.Addr(from) {
			t.Fatalf("took %x from %v", b[:n], as)
		}
		taken++
	}
	if taken != maxInbox || woken != maxInbox {
		t.Errorf("took %d and was woken %d times, want %d", taken, woken, maxInbox)
	}
}

// The inbox does not share memory with who put something in.
func TestInboxCopies(t *testing.T) {
	q := inbox{wake: func() {}}
	b := []byte("one")
	q.put(b, newVirtual())
	copy(b, "two")
	got := make([]byte, 8)
	if n, _, _ := q.take(got); string(got[:n]) != "one" {
		t.Errorf("took %q", got[:n])
	}
}

func TestOversizeIsDropped(t *testing.T) {
	pc := newFakeConn()
	s, _ := testSocket(pc)
	r := testRoute(t, s)
	s.routeOf = func(netip.Addr) *route { return r }
	r.target.Store(&target{path: holepunch.Path{Remote: addr("198.51.100.9:9")}, remote: net.UDPAddrFromAddrPort(addr("198.51.100.9:9"))})
	for size, arrives := range map[int]bool{1200: true, maxDatagram: true, maxDatagram + 1: false, 1452: false} {
		pc.sent = nil
		n, err := s.WriteTo(make([]byte, size), r.virtual)
		if n != size || err != nil {
			t.Errorf("writing %d bytes: %d, %v: QUIC must believe them sent", size, n, err)
		}
		if got := len(pc.sent) == 1; got != arrives {
			t.Errorf("%d bytes: sent %v, want %v", size, got, arrives)
		}
	}
}

func TestWriteToARouteThatIsGone(t *testing.T) {
	pc := newFakeConn()
	s, _ := testSocket(pc)
	if n, err := s.WriteTo(quicShort, newVirtual()); n != len(quicShort) || err != nil {
		t.Errorf("%d, %v: QUIC cannot do anything about an error", n, err)
	}
	if len(pc.sent) != 0 {
		t.Error("a packet left to a virtual address")
	}
	if _, err := s.WriteTo(quicShort, &net.UnixAddr{}); err == nil {
		t.Error("a UNIX address is written to")
	}
	if _, err := s.WriteTo(quicShort, net.UDPAddrFromAddrPort(addr("192.0.2.5:5"))); err != nil || len(pc.sent) != 1 {
		t.Errorf("a real address: %v, %d sent", err, len(pc.sent))
	}
}

// mixed is a batch as a busy socket sees it: QUIC's own, a peer's, and others.
func TestReadBatchPayloadsAreCopiedDown(t *testing.T) {
	to, from := loopback(t).(*net.UDPConn), loopback(t)
	s, got := testSocket(to)
	r := testRoute(t, s)
	s.own(holepunch.Path{Remote: from.LocalAddr().(*net.UDPAddr).AddrPort()}, r)
	k := s.transportConn().(*kernelSocket)
	var want []string
	for i := range 60 {
		switch i % 6 {
		case 0, 4:
			b := append(bytes.Clone(quicShort), byte(i))
			want = append(want, string(b))
			from.WriteTo(b, to.LocalAddr())
		default:
			from.WriteTo([][]byte{nil, stunBinding, aCheck, garbage, nil, channelData}[i%6], to.LocalAddr())
		}
	}
	to.SetReadBuffer(1 << 20)
	ms := make([]ipv4.Message, 8)
	buffers := make([][]byte, len(ms))
	for i := range ms {
		buffers[i] = make([]byte, 1500)
		ms[i] = ipv4.Message{Buffers: [][]byte{buffers[i]}, OOB: make([]byte, 128)}
	}
	var had []string
	for len(had) < len(want) {
		n, err := k.ReadBatch(ms, 0)
		if err != nil || n < 1 || n > len(ms) {
			t.Fatalf("ReadBatch returned %d, %v", n, err)
		}
		for i, m := range ms[:n] {
			if &m.Buffers[0][0] != &buffers[i][0] {
				t.Fatalf("message %d has another's buffer", i)
			}
			if m.Addr != net.Addr(r.virtual) {
				t.Errorf("QUIC sees it from %v", m.Addr)
			}
			had = append(had, string(m.Buffers[0][:m.N]))
		}
	}
	if !slices.Equal(had, want) {
		t.Errorf("QUIC read %q\nwant %q", had, want)
	}
	if got.checks != 10 || got.stun != 20 || s.dropped.Load() != 30 {
		t.Errorf("checks %d, STUN %d, dropped %d", got.checks, got.stun, s.dropped.Load())
	}
	s.inbox.put([]byte("by relay"), r.virtual)
	if n, err := k.ReadBatch(ms, 0); n != 1 || err != nil || string(ms[0].Buffers[0][:ms[0].N]) != "by relay" {
		t.Errorf("from the inbox: %d, %v, %q", n, err, ms[0].Buffers[0][:ms[0].N])
	}
	if n, _, _, as, err := k.readAfterWake(quicShort, from, r); n != len(quicShort) || as == nil || err != nil {
		t.Errorf("ReadMsgUDP: %d, %v, %v", n, as, err)
	}
	s.SetReadDeadline(time.Now())
	if _, err := k.ReadBatch(ms, 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
}

// readAfterWake reads one more datagram by the other call, after a wake-up that
// had nothing for it.
func (k *kernelSocket) readAfterWake(b []byte, from net.PacketConn, r *route) (n, oobn, flags int, as *net.UDPAddr, err error) {
	k.inbox.wake()
	from.WriteTo(b, k.LocalAddr())
	return k.ReadMsgUDP(make([]byte, 1500), nil)
}
