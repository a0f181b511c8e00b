package server

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
)

// TURN requests and channel data come out of TURN(0), and what it writes
// leaves from the socket; STUN Binding and QUIC do not come out.
func TestTURNPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		turn := w.node.TURN(0)
		client := w.net.listen(netip.AddrPort{})
		allocate := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest)).Raw
		large := append([]byte{0x40, 0x01, 0x0b, 0xb8}, make([]byte, 3000)...)
		for _, b := range [][]byte{
			stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw,
			append(bytes.Clone(allocate), 0), // a length that does not fit
			allocate,
			{0x40, 0x00, 0x00, 0x02, 0xaa, 0xbb},
			{0x40, 0x00, 0x00, 0x09, 0xaa, 0xbb}, // channel data cut short
			large,
		} {
			client.WriteTo(b, net.UDPAddrFromAddrPort(w.addr))
			time.Sleep(time.Millisecond)
		}
		b := make([]byte, 4096)
		for _, want := range [][]byte{allocate, {0x40, 0x00, 0x00, 0x02, 0xaa, 0xbb}, large} {
			n, from, err := turn.ReadFrom(b)
			if err != nil || !bytes.Equal(b[:n], want) {
				t.Fatalf("%x, %v, want %x", b[:n], err, want)
			}
			if source, _ := addrPort(from); source != client.addr {
				t.Errorf("from %v", from)
			}
		}
		for range client.queue { // the answer to the Binding request
			break
		}
		turn.WriteTo([]byte("out"), net.UDPAddrFromAddrPort(client.addr))
		n, from, err := client.ReadFrom(b)
		if err != nil || string(b[:n]) != "out" || from.String() != w.addr.String() {
			t.Errorf("%q from %v, %v", b[:n], from, err)
		}
	})
}

func TestTURNQueueIsBounded(t *testing.T) {
	c := newTURNConn(discard{}, anyDatagrams{discard{}})
	for range 10 * turnQueue {
		c.deliver([]byte("x"), netip.MustParseAddrPort("192.0.2.1:1"))
	}
	if len(c.queue) != turnQueue {
		t.Errorf("%d packets wait", len(c.queue))
	}
}

func TestTURNDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTURNConn(discard{}, anyDatagrams{discard{}})
		want := func(want error, after time.Duration, why string) {
			t.Helper()
			began := time.Now()
			_, _, err := c.ReadFrom(make([]byte, 10))
			if !errors.Is(err, want) || time.Since(began) != after {
				t.Errorf("%s: %v after %v, want %v after %v", why, err, time.Since(began), want, after)
			}
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		want(os.ErrDeadlineExceeded, time.Second, "a deadline to come")
		want(os.ErrDeadlineExceeded, 0, "a deadline that passed")
		c.SetDeadline(time.Time{})
		time.AfterFunc(time.Minute, func() { c.SetReadDeadline(time.Now()) })
		want(os.ErrDeadlineExceeded, time.Minute, "a deadline set while reading")
		c.SetReadDeadline(time.Now().Add(time.Second))
		c.SetReadDeadline(time.Now().Add(time.Hour))
		time.AfterFunc(time.Minute, func() { c.Close() })
		want(net.ErrClosed, time.Minute, "closed while reading, and not by the deadline that was replaced")
		c.Close()
	})
}

// On a socket bound to the unspecified address, STUN and QUIC answer from the
// address that was asked.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	for _, bind := range []string{"0.0.0.0:0", "[::]:0"} {
		t.Run(bind, func(t *testing.T) {
			conn, err := net.ListenPacket("udp", bind)
			if err != nil {
				t.Skipf("this machine has no such address: %v", err)
			}
			if newDatagrams(conn).(*udpDatagrams).oob == nil {
				t.Skip("this system does not say to which address a packet came")
			}
			port := conn.LocalAddr().(*net.UDPAddr).Port
			w := &world{t: t}
			w.startOn(Config{}, []net.PacketConn{conn})
			w.addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), uint16(port))
			asked, err := net.Dial("udp", w.addr.String()) // hears no other address
			if err != nil {
				t.Fatal(err)
			}
			defer asked.Close()
			asked.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
			asked.SetReadDeadline(time.Now().Add(10 * time.Second))
			m := &stun.Message{Raw: make([]byte, 1500)}
			n, err := asked.Read(m.Raw)
			if err != nil {
				t.Fatalf("no answer from %v: %v", w.addr, err)
			}
			if m.Raw = m.Raw[:n]; m.Decode() != nil {
				t.Fatalf("%x", m.Raw)
			}
			alice, bob := w.peer("alice"), w.peer("bob")
			reg := alice.wantReady("alice registers at 127.0.0.2")
			if len(reg.STUN) != 1 || reg.STUN[0] != w.addr {
				t.Errorf("STUN at %v, want the address that was dialled", reg.STUN)
			}
			bob.wantReady("bob registers")
			alice.call(bob, "offer")
			bob.wantCall("offer", "it arrives")
		})
	}
}

// Whatever arrives, nothing panics, and no answer is larger than three times
// what asked for it.
func FuzzSocket(f *testing.F) {
	f.Add([]byte{})
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, changeRequest(6), stun.Fingerprint).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrResponsePort, Value: []byte{9, 9}}).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: 0x7fff}).Raw)
	f.Add([]byte{0x40, 0x01, 0x00, 0x00})
	s := &Server{limits: newLimiters(Limits{STUN: Rate{PerSecond: -1}, STUNPrefix: Rate{PerSecond: -1}})}
	out := &meter{}
	for _, at := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "192.0.2.2:2", "[2001:db8::1]:1", "[2001:db8::1]:2", "[2001:db8::2]:1", "[2001:db8::2]:2"} {
		s.sockets = append(s.sockets, &socket{datagrams: out, public: netip.MustParseAddrPort(at), turn: newTURNConn(discard{}, out)})
	}
	s.stun = newSTUNServer(s)
	for _, sock := range s.sockets {
		sock.binding = func(b []byte, from netip.AddrPort, via []byte) { s.stun.receive(b, from, via, sock) }
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i, from := range []string{"203.0.113.1:5", "[2001:db8::5]:5"} {
			out.n = 0
			s.sockets[4*i].divert(b, netip.MustParseAddrPort(from), nil)
			if out.n > stunAmplification*len(b) {
				t.Errorf("%d bytes answer %d", out.n, len(b))
			}
		}
	})
}

// meter counts what is sent.
type meter struct {
	anyDatagrams
	n int
}

func (m *meter) write(b []byte, _ netip.AddrPort, _ []byte) error {
	m.n += len(b)
	return nil
}
