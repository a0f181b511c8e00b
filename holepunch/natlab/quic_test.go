package natlab_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:         []string{"natlab"},
		InsecureSkipVerify: true,
	}
}

// quicEcho serves one connection on c, echoing one stream, until c is closed.
func quicEcho(t *testing.T, c net.PacketConn, conf *tls.Config) (stop func()) {
	t.Helper()
	tr := &quic.Transport{Conn: c}
	ln, err := tr.Listen(conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := ln.Accept(t.Context())
		if err != nil {
			return
		}
		if s, err := conn.AcceptStream(t.Context()); err == nil {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}
		<-conn.Context().Done()
	}()
	return func() { _ = ln.Close(); _ = tr.Close(); _ = c.Close() }
}

// TestQUIC transfers a megabyte there and back over 20 ms of delay and 1 % of loss, from behind a
// carrier and a home NAT.
func TestQUIC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{Seed: 2, Link: natlab.LinkConfig{Latency: 10 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.005}})
		defer func() { _ = in.Close() }()
		server := in.Host("server", natlab.HostConfig{})
		site, err := in.Site(natlab.SiteCarrier, "client")
		if err != nil {
			t.Fatal(err)
		}
		conf := testTLS(t)
		sc := listen(t, server, ":443")
		defer quicEcho(t, sc, conf)()
		cc := listen(t, site.Host, ":0")
		tr := &quic.Transport{Conn: cc}
		defer func() { _ = tr.Close(); _ = cc.Close() }()

		start := time.Now()
		conn, err := tr.Dial(t.Context(), udpAddr(server, sc), conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseWithError(0, "done") }()
		handshake := time.Since(start)
		echo(t, conn)
		t.Logf("handshake after %v, 1 MB there and back after %v", handshake, time.Since(start))
	})
}

func echo(t *testing.T, conn *quic.Conn) {
	t.Helper()
	s, err := conn.OpenStreamSync(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		_, _ = s.Write(data)
		_ = s.Close()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(data), err)
	}
}

// TestQUICSurvivesReboot: the router forgets its mappings under the connection; the client's next
// packet makes a new one and quic-go follows the peer.
func TestQUICSurvivesReboot(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, server, _ *natlab.Host) {
		site, err := in.Site(natlab.SitePortRestricted, "client")
		if err != nil {
			t.Fatal(err)
		}
		conf := testTLS(t)
		sc := listen(t, server, ":443")
		defer quicEcho(t, sc, conf)()
		cc := listen(t, site.Host, ":0")
		tr := &quic.Transport{Conn: cc}
		defer func() { _ = tr.Close(); _ = cc.Close() }()
		conn, err := tr.Dial(t.Context(), udpAddr(server, sc), conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseWithError(0, "done") }()
		time.Sleep(time.Second) // RFC 9000, section 9: no migration "before the handshake is confirmed"
		site.Home.Reboot()
		site.Home.Renumber()
		echo(t, conn)
	})
}
