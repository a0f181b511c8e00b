package holepunch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

const ms = time.Millisecond

// punchSide is one side of a meeting: a socket in its home, and what a STUN server said of it.
type punchSide struct {
	*testing.T
	host  *natlab.Host
	conn  net.PacketConn
	cands []holepunch.Candidate
}

// newPunchSide opens a socket and asks the STUN server at node for the mapped address.
func newPunchSide(t *testing.T, in *natlab.Internet, kind natlab.SiteKind, name string, node netip.AddrPort) *punchSide {
	t.Helper()
	site, err := in.Site(kind, name)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := site.Host.ListenPacket("udp", ":5000")
	if err != nil {
		t.Fatal(err)
	}
	s := &punchSide{T: t, host: site.Host, conn: conn}
	s.cands, err = holepunch.Gather(holepunch.GatherConfig{
		Interfaces: func() ([]holepunch.Interface, error) {
			return []holepunch.Interface{{Name: "eth0", Prefixes: site.Host.Addrs()}}, nil
		},
		LocalPort: 5000,
		Observed:  s.observed(node),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *punchSide) observed(node netip.AddrPort) []netip.AddrPort {
	var client holepunch.STUNClient
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := s.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			client.Inbound(buf[:n], from.(*net.UDPAddr).AddrPort())
		}
	}()
	defer func() {
		s.conn.SetReadDeadline(time.Now())
		<-done
		s.conn.SetReadDeadline(time.Time{})
	}()
	ctx, cancel := context.WithTimeout(s.Context(), 2*time.Second)
	defer cancel()
	b, err := client.Do(ctx, func(b []byte, to netip.AddrPort) error {
		_, err := s.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
		return err
	}, node)
	if err != nil {
		return nil
	}
	return []netip.AddrPort{b.Mapped}
}

// serveSTUN answers Binding requests until conn is closed. It writes what RFC 8489 says,
// by hand: it shares no code with the client.
func serveSTUN(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if n != 20 || buf[0] != 0 || buf[1] != 1 {
			continue
		}
		addr := from.(*net.UDPAddr).AddrPort()
		ip, port := addr.Addr().Unmap().As4(), addr.Port()^0x2112
		reply := append([]byte{1, 1, 0, 12}, buf[4:20]...)
		reply = append(reply, 0, 0x20, 0, 8, 0, 1, byte(port>>8), byte(port), ip[0]^0x21, ip[1]^0x12, ip[2]^0xa4, ip[3]^0x42)
		conn.WriteTo(reply, from)
	}
}

// meet builds two homes, punches, and returns what each side got.
func meet(t *testing.T, left, right natlab.SiteKind, wait time.Duration) (paths [2]holepunch.PathStatus, errs [2]error) {
	t.Helper()
	in := natlab.New(natlab.Config{Seed: 1, Link: natlab.LinkConfig{Latency: 10 * ms}})
	defer in.Close()
	node := in.Host("node", natlab.HostConfig{})
	stun, err := node.ListenPacket("udp", ":3478")
	if err != nil {
		t.Fatal(err)
	}
	go serveSTUN(stun)
	at := netip.AddrPortFrom(node.Addr(), 3478)
	a, b := newPunchSide(t, in, left, "left", at), newPunchSide(t, in, right, "right", at)

	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	secret := [32]byte{5}
	done := make(chan struct{})
	go func() {
		defer close(done)
		paths[1], errs[1] = b.punch(ctx, holepunch.SessionConfig{Secret: secret}, a.cands)
	}()
	paths[0], errs[0] = a.punch(ctx, holepunch.SessionConfig{Secret: secret, Caller: true}, b.cands)
	<-done
	if errs[0] == nil && errs[1] == nil {
		a.wantTalk(paths[0], b)
		b.wantTalk(paths[1], a)
	}
	a.conn.Close()
	b.conn.Close()
	return paths, errs
}

func (s *punchSide) punch(ctx context.Context, cfg holepunch.SessionConfig, remote []holepunch.Candidate) (holepunch.PathStatus, error) {
	session := holepunch.NewSession(cfg)
	session.AddRemote(time.Now(), remote...)
	return holepunch.NewPuncher(s.conn, session, holepunch.Hooks{}).Run(ctx)
}

func TestPunch(t *testing.T) {
	for _, pair := range [][2]natlab.SiteKind{
		{natlab.SiteNone, natlab.SiteNone},
		{natlab.SiteNone, natlab.SiteSymmetric},
		{natlab.SitePortRestricted, natlab.SitePortRestricted},
		{natlab.SiteCarrier, natlab.SiteCarrier},
		{natlab.SiteCarrier, natlab.SitePortRestricted},
		{natlab.SiteRestrictedCone, natlab.SiteSymmetric},
		{natlab.SiteLinux, natlab.SiteLinux},
		{natlab.SiteLinux, natlab.SitePortRestricted},
	} {
		t.Run(fmt.Sprintf("%s × %s", pair[0], pair[1]), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Two round trips of 40 ms and a pace; more where the first knocks cross badly.
				paths, errs := meet(t, pair[0], pair[1], 500*ms)
				for i, err := range errs {
					if err != nil || paths[i].Kind != holepunch.Direct || paths[i].State != holepunch.Confirmed {
						t.Errorf("side %d: %+v, %v", i, paths[i], err)
					}
				}
			})
		})
	}
}

// wantTalk sends over the path that was punched, and wants it to arrive. The sockets are
// free again, and have no deadline; late checks may still come.
func (s *punchSide) wantTalk(path holepunch.PathStatus, other *punchSide) {
	s.Helper()
	if _, err := s.conn.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(path.Path.Remote)); err != nil {
		s.Fatal(err)
	}
	other.conn.SetReadDeadline(time.Now().Add(time.Minute))
	defer other.conn.SetReadDeadline(time.Time{})
	buf := make([]byte, 1500)
	for {
		n, _, err := other.conn.ReadFrom(buf)
		if err != nil {
			s.Fatalf("nothing arrives over %v: %v", path.Path, err)
		}
		if string(buf[:n]) == "hello" {
			return
		}
	}
}

// Not feasible by plain knocking: the error lists every path and why.
func TestPunchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, errs := meet(t, natlab.SiteSymmetric, natlab.SitePortRestricted, 5*time.Second)
		for _, err := range errs {
			var pe *holepunch.PunchError
			if !errors.As(err, &pe) || !errors.Is(err, context.DeadlineExceeded) || len(pe.Paths) < 2 {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), "no answer to") || !strings.Contains(err.Error(), "in 5.0 s") || !strings.Contains(err.Error(), "lan: ") {
				t.Errorf("error %v", err)
			}
			var path *holepunch.PathError
			if !errors.As(err, &path) || path.Sent == 0 {
				t.Errorf("no path's error in %v", err)
			}
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// Without a deadline it ends by itself when nothing is left to try.
func TestPunchGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, errs := meet(t, natlab.SiteUDPBlocked, natlab.SiteNone, time.Hour)
		for _, err := range errs {
			if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "every path failed") {
				t.Errorf("error %v", err)
			}
		}
	})
}

// Candidates that come late, packets of others on the same socket, and a closed socket.
func TestPuncherSharesItsSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{Seed: 1, Link: natlab.LinkConfig{Latency: 10 * ms}})
		defer in.Close()
		var conns [2]net.PacketConn
		var addrs [2]netip.AddrPort
		for i := range conns {
			host := in.Host(fmt.Sprintf("host%d", i), natlab.HostConfig{})
			conns[i], _ = host.ListenPacket("udp", ":5000")
			addrs[i] = netip.AddrPortFrom(host.Addr(), 5000)
		}
		var other [][]byte
		opened := make(chan []holepunch.PathStatus, 1)
		hooks := holepunch.Hooks{
			Other: func(b []byte, from netip.AddrPort) {
				if from == addrs[1] {
					other = append(other, bytes.Clone(b))
				}
			},
			Changed: func(paths []holepunch.PathStatus) bool {
				if paths[0].State == holepunch.Confirmed {
					opened <- paths
				}
				return false
			},
		}
		puncher := holepunch.NewPuncher(conns[0], holepunch.NewSession(holepunch.SessionConfig{Caller: true}), hooks)
		ended := make(chan error, 1)
		go func() {
			_, err := puncher.Run(t.Context())
			ended <- err
		}()
		synctest.Wait() // it waits without candidates, and without a deadline
		time.Sleep(time.Minute)
		for _, b := range [][]byte{[]byte("quic or so"), {0x21}, bytes.Repeat([]byte{0x21}, holepunch.CheckSize)} {
			conns[1].WriteTo(b, net.UDPAddrFromAddrPort(addrs[0]))
		}
		puncher.AddRemote(holepunch.Candidate{Kind: holepunch.Host, Addr: addrs[1]})
		peer := holepunch.NewPuncher(conns[1], holepunch.NewSession(holepunch.SessionConfig{}), holepunch.Hooks{})
		if path, err := peer.Run(t.Context()); err != nil || path.Path.Remote != addrs[0] || path.RTT < 20*ms {
			t.Errorf("the peer, which knew no candidate: %+v, %v", path, err)
		}
		<-opened
		conns[0].Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Run on a closed socket: %v", err)
		}
		if len(other) != 3 || string(other[0]) != "quic or so" {
			t.Errorf("others' packets: %q", other)
		}
		conns[1].Close()
	})
}
