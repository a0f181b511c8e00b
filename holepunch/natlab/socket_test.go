package natlab_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// pipeConn makes a stream of two sockets, for nettest: links without delay or loss keep the order,
// an empty datagram says that the other end is closed, and a writer waits for its reader.
type pipeConn struct {
	net.PacketConn
	peer   net.Addr
	once   sync.Once
	eof    atomic.Bool
	unread *atomic.Int64 // by the peer
	toRead *atomic.Int64 // by us
}

const pipeRoom = 1000

func (c *pipeConn) Read(b []byte) (int, error) {
	if c.eof.Load() {
		return 0, io.EOF
	}
	n, _, err := c.ReadFrom(b)
	if err != nil {
		return 0, err
	}
	c.toRead.Add(-1)
	if n == 0 {
		c.eof.Store(true)
		return 0, io.EOF
	}
	return n, nil
}

func (c *pipeConn) Write(b []byte) (int, error) {
	for c.unread.Load() > pipeRoom {
		// To an address that nobody has: returns the error of a deadline or a close.
		if _, err := c.WriteTo(nil, &net.UDPAddr{IP: net.IPv4(9, 9, 9, 9), Port: 9}); err != nil {
			return 0, err
		}
		runtime.Gosched()
	}
	c.unread.Add(1)
	return c.WriteTo(b, c.peer)
}

func (c *pipeConn) RemoteAddr() net.Addr { return c.peer }

func (c *pipeConn) Close() error {
	c.once.Do(func() { _, _ = c.WriteTo(nil, c.peer) })
	return c.PacketConn.Close()
}

// TestNettest runs the conformance tests of x/net, which test deadlines and closing above all.
// They run in real time: they start subtests, which a bubble cannot.
func TestNettest(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		in := natlab.New(natlab.Config{})
		a, err := in.Host("a", natlab.HostConfig{}).ListenPacket("udp", ":0")
		if err != nil {
			return nil, nil, nil, err
		}
		hb := in.Host("b", natlab.HostConfig{})
		b, err := hb.ListenPacket("udp", ":0")
		if err != nil {
			return nil, nil, nil, err
		}
		var toA, toB atomic.Int64
		ca := &pipeConn{PacketConn: a, peer: udpAddr(hb, b), unread: &toB, toRead: &toA}
		_, _ = a.WriteTo([]byte("hello"), ca.peer)
		_, from, err := b.ReadFrom(make([]byte, 9))
		cb := &pipeConn{PacketConn: b, peer: from, unread: &toA, toRead: &toB}
		return ca, cb, func() { _ = ca.Close(); _ = cb.Close(); _ = in.Close() }, err
	})
}

// udpAddr is the endpoint of a socket bound to the unspecified address.
func udpAddr(h *natlab.Host, c net.PacketConn) *net.UDPAddr {
	return &net.UDPAddr{IP: h.Addr().AsSlice(), Port: c.LocalAddr().(*net.UDPAddr).Port}
}

// bubble runs f with two public hosts, 10 ms from the core each.
func bubble(t *testing.T, c natlab.Config, f func(t *testing.T, in *natlab.Internet, a, b *natlab.Host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if c.Link == (natlab.LinkConfig{}) {
			c.Link.Latency = 10 * time.Millisecond
		}
		in := natlab.New(c)
		defer func() { _ = in.Close() }()
		f(t, in, in.Host("a", natlab.HostConfig{IPv6: true}), in.Host("b", natlab.HostConfig{IPv6: true}))
	})
}

func wantErr(t *testing.T, err, want error, why string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", why, err, want)
	}
}

func TestReadDeadline(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, _ *natlab.Internet, a, _ *natlab.Host) {
		c := listen(t, a, ":0")
		start := time.Now()
		time.AfterFunc(time.Second, func() { _ = c.SetReadDeadline(time.Now().Add(-time.Hour)) })
		_, _, err := c.ReadFrom(nil)
		wantErr(t, err, os.ErrDeadlineExceeded, "a deadline in the past wakes a blocked reader")
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		_, _, err = c.ReadFrom(nil)
		wantErr(t, err, os.ErrDeadlineExceeded, "it stays passed")
		if d := time.Since(start); d != time.Second {
			t.Errorf("woken after %v, want at once, 1 s", d)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		time.AfterFunc(time.Second, func() { _ = c.SetReadDeadline(time.Now().Add(time.Second)) })
		_, _, err = c.ReadFrom(nil)
		wantErr(t, err, os.ErrDeadlineExceeded, "moved forward")
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("after %v, want 3 s", d)
		}
		_ = c.SetDeadline(time.Now())
		_, err = c.WriteTo([]byte("x"), &net.UDPAddr{IP: a.Addr().AsSlice(), Port: 1})
		wantErr(t, err, os.ErrDeadlineExceeded, "write deadline")
		_ = c.SetDeadline(time.Time{})
		_, err = c.WriteTo([]byte("x"), &net.UDPAddr{IP: a.Addr().AsSlice(), Port: 1})
		wantErr(t, err, nil, "deadline taken away")
	})
}

func TestCloseUnblocks(t *testing.T) {
	for name, closer := range map[string]func(*natlab.Internet, net.PacketConn) error{
		"socket":   func(_ *natlab.Internet, c net.PacketConn) error { return c.Close() },
		"internet": func(in *natlab.Internet, _ net.PacketConn) error { return in.Close() },
	} {
		bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, _ *natlab.Host) {
			c := listen(t, a, ":0")
			_ = c.SetReadDeadline(time.Now().Add(time.Hour))
			errs := make(chan error)
			for range 3 {
				go func() { _, _, err := c.ReadFrom(nil); errs <- err }()
			}
			synctest.Wait()
			wantErr(t, closer(in, c), nil, name)
			for range 3 {
				wantErr(t, <-errs, net.ErrClosed, name+": blocked readers")
			}
			_, err := c.WriteTo([]byte("x"), c.LocalAddr())
			wantErr(t, err, net.ErrClosed, name+": write")
			wantErr(t, c.SetReadDeadline(time.Time{}), net.ErrClosed, name+": deadline")
			wantErr(t, c.Close(), net.ErrClosed, name+": second close")
			wantErr(t, in.Close(), nil, name+": Internet.Close is idempotent")
			_, err = a.ListenPacket("udp", ":0")
			wantErr(t, err, net.ErrClosed, name+": listen on a closed internet")
		})
	}
}

func TestReadFrom(t *testing.T) {
	bubble(t, natlab.Config{ReceiveQueue: 3}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		ca, cb := listen(t, a, ":1000"), listen(t, b, ":2000")
		msg := []byte("hello")
		for range 5 {
			if n, err := ca.WriteTo(msg, udpAddr(b, cb)); n != 5 || err != nil {
				t.Fatal(n, err)
			}
		}
		msg[0] = 'X' // the datagram is on its way, the buffer is the sender's again
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		if d := cb.(*natlab.Socket).Dropped(); d != 2 {
			t.Errorf("%d dropped, want 2 of 5 with room for 3", d)
		}
		buf := make([]byte, 2)
		n, from, err := cb.ReadFrom(buf)
		if n != 2 || err != nil || string(buf) != "he" {
			t.Errorf("short buffer: %d %v %q, want it cut off", n, err, buf)
		}
		if ua, ok := from.(*net.UDPAddr); !ok || ua.AddrPort().Addr() != a.Addr() || ua.Port != 1000 {
			t.Errorf("from %v (%T), want %v:1000", from, from, a.Addr())
		}
		buf = make([]byte, 100)
		if n, _, _ = cb.ReadFrom(buf); n != 5 {
			t.Errorf("next: %d bytes, want 5: the rest of a cut datagram is gone", n)
		}
		if _, err = cb.WriteTo(nil, from); err != nil {
			t.Fatal(err)
		}
		if n, _, err = ca.ReadFrom(buf); n != 0 || err != nil {
			t.Errorf("empty datagram: %d, %v", n, err)
		}
	})
}

func TestWriteErrors(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, a, b *natlab.Host) {
		v4only := in.Host("v4", natlab.HostConfig{})
		to := func(c net.PacketConn, addr net.Addr, size int) error {
			_, err := c.WriteTo(make([]byte, size), addr)
			return err
		}
		c := listen(t, a, ":0")
		dst := &net.UDPAddr{IP: b.Addr().AsSlice(), Port: 9}
		wantErr(t, to(c, dst, 1472), nil, "1500 bytes of IPv4")
		wantErr(t, to(c, dst, 1473), syscall.EMSGSIZE, "1501 bytes of IPv4")
		dst6 := &net.UDPAddr{IP: b.Addrs()[1].Addr().AsSlice(), Port: 9}
		wantErr(t, to(c, dst6, 1452), nil, "1500 bytes of IPv6")
		wantErr(t, to(c, dst6, 1453), syscall.EMSGSIZE, "1501 bytes of IPv6")
		wantErr(t, to(c, &net.UDPAddr{IP: net.IPv4(9, 9, 9, 9), Port: 9}, 1), nil, "nobody there: the sender does not learn")
		wantErr(t, to(c, &net.UDPAddr{IP: net.IPv4(9, 9, 9, 9)}, 1), syscall.EINVAL, "port 0")
		wantErr(t, to(c, &net.TCPAddr{}, 1), syscall.EINVAL, "not a UDP address")
		wantErr(t, to(c, (*net.UDPAddr)(nil), 1), syscall.EINVAL, "nil address")
		wantErr(t, to(listen(t, v4only, ":0"), dst6, 1), syscall.ENETUNREACH, "no IPv6 here")
		v4sock, err := a.ListenPacket("udp4", ":0")
		wantErr(t, err, nil, "udp4")
		wantErr(t, to(v4sock, dst6, 1), syscall.EAFNOSUPPORT, "IPv6 over an IPv4 socket")
		mapped := &net.UDPAddr{IP: b.Addr().AsSlice(), Port: 9}
		mapped.IP = mapped.IP.To16()
		wantErr(t, to(v4sock, mapped, 1), nil, "a mapped address is IPv4")
		w := c.(natlab.TTLWriter)
		for _, ttl := range []int{0, -1, 256} {
			_, err = w.WriteToTTL([]byte("x"), dst, ttl)
			wantErr(t, err, syscall.EINVAL, "TTL out of range")
		}
	})
}

func TestListenPacket(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, _ *natlab.Internet, a, _ *natlab.Host) {
		v4 := a.Addr().String()
		for _, c := range []struct{ network, address, local string }{
			{"udp", ":1", "[::]:1"},
			{"udp", "0.0.0.0:2", "[::]:2"},
			{"udp", "[::]:3", "[::]:3"},
			{"udp4", ":4", "0.0.0.0:4"},
			{"udp4", "0.0.0.0:5", "0.0.0.0:5"},
			{"udp6", ":4", "[::]:4"},
			{"udp", v4 + ":6", v4 + ":6"},
			{"udp", "127.0.0.1:6", "127.0.0.1:6"},
		} {
			pc, err := a.ListenPacket(c.network, c.address)
			if err != nil {
				t.Errorf("%s %s: %v", c.network, c.address, err)
			} else if got := pc.LocalAddr().String(); got != c.local {
				t.Errorf("%s %s: local %s, want %s", c.network, c.address, got, c.local)
			}
		}
		for _, c := range []struct {
			network, address string
			want             error
		}{
			{"udp", ":1", syscall.EADDRINUSE},
			{"udp4", ":2", syscall.EADDRINUSE},
			{"udp", v4 + ":2", syscall.EADDRINUSE},
			{"udp", ":6", syscall.EADDRINUSE},
			{"udp", ":5", syscall.EADDRINUSE},
			{"udp", "9.9.9.9:1", syscall.EADDRNOTAVAIL},
		} {
			_, err := a.ListenPacket(c.network, c.address)
			wantErr(t, err, c.want, c.network+" "+c.address)
		}
		for _, c := range [][2]string{{"tcp", ":1"}, {"udp4", "[::1]:1"}, {"udp6", "1.2.3.4:1"}, {"udp", "host:1"}, {"udp", "1"}, {"udp", ":x"}, {"udp", ":65536"}} {
			if _, err := a.ListenPacket(c[0], c[1]); err == nil {
				t.Errorf("%v: no error", c)
			}
		}
	})
}

func TestEphemeralPorts(t *testing.T) {
	var runs [2][]string
	for i := range runs {
		bubble(t, natlab.Config{Seed: 9}, func(t *testing.T, _ *natlab.Internet, a, _ *natlab.Host) {
			for range 3 {
				runs[i] = append(runs[i], listen(t, a, ":0").LocalAddr().String())
			}
		})
	}
	if runs[0][0] != runs[1][0] || runs[0][2] != runs[1][2] || runs[0][0] == runs[0][1] {
		t.Errorf("%v and %v: want three different ports, the same in both runs", runs[0], runs[1])
	}
	bubble(t, natlab.Config{}, func(t *testing.T, _ *natlab.Internet, a, _ *natlab.Host) {
		for range 16384 {
			listen(t, a, "127.0.0.1:0")
		}
		_, err := a.ListenPacket("udp", "127.0.0.1:0")
		wantErr(t, err, syscall.EADDRINUSE, "all ephemeral ports taken")
	})
}

func TestBothFamiliesAndLoopback(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, _ *natlab.Internet, a, b *natlab.Host) {
		ca, cb := listen(t, a, ":0"), listen(t, b, ":7")
		buf := make([]byte, 9)
		for _, p := range b.Addrs() {
			_, _ = ca.WriteTo([]byte("x"), &net.UDPAddr{IP: p.Addr().AsSlice(), Port: 7})
			_, from, err := cb.ReadFrom(buf)
			if err != nil || from.(*net.UDPAddr).AddrPort().Addr().Is4() != p.Addr().Is4() {
				t.Errorf("to %v: from %v, %v", p, from, err)
			}
		}
		start := time.Now()
		for _, ip := range []string{"127.0.0.1", "::1", a.Addr().String()} {
			_, _ = ca.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(ip), Port: ca.LocalAddr().(*net.UDPAddr).Port})
			_, from, err := ca.ReadFrom(buf)
			if err != nil || from.(*net.UDPAddr).IP.String() != ip {
				t.Errorf("to myself at %s: from %v, %v", ip, from, err)
			}
		}
		if time.Since(start) != 0 {
			t.Error("loopback takes time")
		}
	})
}
