package peerconn

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
)

// BenchmarkThroughput compares a link over a direct path with plain quic-go
// between the same two addresses, in turns:
//
//	go test -run - -bench Throughput -benchtime 2s -count 5 ./peerconn
func BenchmarkThroughput(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchTransfer(b, plainPair) })
	b.Run("link", func(b *testing.B) { benchTransfer(b, linkPair) })
}

const chunk = 1 << 20

func benchTransfer(b *testing.B, pair func(testing.TB) (from, to *quic.Conn)) {
	from, to := pair(b)
	out, err := from.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, chunk)
	if _, err := out.Write(buf[:1]); err != nil { // the other side learns of the stream
		b.Fatal(err)
	}
	in, err := to.AcceptStream(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(chunk)
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, in, int64(b.N)*chunk+1)
		done <- err
	}()
	b.ResetTimer()
	for range b.N {
		if _, err := out.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func loopback(t testing.TB) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func identity(t testing.TB) *sallyport.Identity {
	t.Helper()
	id, err := sallyport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// plainPair is quic-go alone, with its defaults.
func plainPair(t testing.TB) (from, to *quic.Conn) {
	a, b := &quic.Transport{Conn: loopback(t)}, &quic.Transport{Conn: loopback(t)}
	ida, idb := identity(t), identity(t)
	return connect(t, a, b, b.Conn.LocalAddr(), ida.ClientTLS(idb.PeerID(), alpn), idb.ServerTLS(alpn), &quic.Config{})
}

// linkPair is two routes that chose each other's socket, as a link is once it
// is direct.
func linkPair(t testing.TB) (from, to *quic.Conn) {
	ida, idb := identity(t), identity(t)
	ha, hb := benchHost(t, ida), benchHost(t, idb)
	var secret [32]byte
	ra, _, err := ha.openRoute(idb.PeerID(), holepunch.SessionConfig{Secret: secret, Caller: true})
	if err != nil {
		t.Fatal(err)
	}
	rb, _, err := hb.openRoute(ida.PeerID(), holepunch.SessionConfig{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	ra.pin(hb)
	rb.pin(ha)
	conn, err := ha.quic.Dial(t.Context(), ra.virtual, ha.linkTLS(idb.PeerID()), ha.quicConfig())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	l, err := hb.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return conn, l.conn
}

// pin makes the other host's socket the path of r.
func (r *route) pin(other *Host) {
	at := holepunch.Path{Remote: unmap(other.LocalAddr())}
	r.sock.own(at, r)
	r.target.Store(&target{path: at, remote: net.UDPAddrFromAddrPort(at.Remote)})
	close(r.first)
}

func benchHost(t testing.TB, id *sallyport.Identity) *Host {
	h, err := NewHost(Config{
		Identity:     id,
		Allow:        func(sallyport.PeerID) bool { return true },
		ListenPacket: func(string, string) (net.PacketConn, error) { return loopback(t), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func connect(t testing.TB, a, b *quic.Transport, to net.Addr, ta, tb *tls.Config, conf *quic.Config) (from, accepted *quic.Conn) {
	ln, err := b.Listen(tb, conf)
	if err != nil {
		t.Fatal(err)
	}
	from, err = a.Dial(t.Context(), to, ta, conf)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err = ln.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.CloseWithError(0, ""); a.Close(); b.Close() })
	return from, accepted
}
