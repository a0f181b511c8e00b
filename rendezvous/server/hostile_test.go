package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// rawPeer speaks frames itself, well or badly.
type rawPeer struct {
	w    *world
	conn *quic.Conn
	quit func()
}

func (w *world) rawPeer(name string) *rawPeer {
	w.t.Helper()
	p, err := w.dial(identity(name).ClientTLS(identity("node").PeerID(), rendezvous.Protocol))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) dial(conf *tls.Config) (*rawPeer, error) {
	socket := w.net.listen(netip.AddrPort{})
	transport := &quic.Transport{Conn: socket, ConnectionIDGenerator: connIDs{}}
	quit := func() { transport.Close(); socket.Close() }
	conn, err := transport.Dial(w.t.Context(), net.UDPAddrFromAddrPort(w.addr), conf, &quic.Config{MaxIncomingStreams: 100})
	if err != nil {
		quit()
		return nil, err
	}
	return &rawPeer{w, conn, quit}, nil
}

func (p *rawPeer) close() {
	p.conn.CloseWithError(0, "")
	p.quit()
}

func (p *rawPeer) open(b []byte) *quic.Stream {
	p.w.t.Helper()
	stream, err := p.conn.OpenStreamSync(p.w.t.Context())
	if err != nil {
		p.w.t.Fatal(err)
	}
	if _, err := stream.Write(b); err != nil {
		p.w.t.Fatal(err)
	}
	return stream
}

// hello registers, callable.
func (p *rawPeer) hello() {
	p.w.t.Helper()
	p.want(p.open(wire.Hello{Flags: wire.FlagCallable, Time: time.Now()}.Append(nil)), wire.TypeWelcome)
}

func (p *rawPeer) want(stream *quic.Stream, kind wire.Type) []byte {
	p.w.t.Helper()
	stream.SetReadDeadline(time.Now().Add(time.Minute))
	got, payload, err := wire.NewReader(stream).Next()
	if err != nil || got != kind {
		p.w.t.Fatalf("frame %#x, %v, want %#x", got, err, kind)
	}
	return payload
}

// wantClosed waits until the node closes the connection with a code.
func (p *rawPeer) wantClosed(code quic.ApplicationErrorCode, why string) {
	p.w.t.Helper()
	select {
	case <-p.conn.Context().Done():
	case <-time.After(time.Minute):
		p.w.t.Fatalf("%s: the connection is still there", why)
	}
	app, ok := errors.AsType[*quic.ApplicationError](context.Cause(p.conn.Context()))
	if !ok || !app.Remote || app.ErrorCode != code {
		p.w.t.Fatalf("%s: %v, want code %d", why, context.Cause(p.conn.Context()), code)
	}
}

func TestBrokenProtocol(t *testing.T) {
	hello := wire.Hello{Flags: wire.FlagCallable}.Append(nil)
	for name, b := range map[string][]byte{
		"unknown frame":           {0x7f, 0, 0},
		"malformed hello":         {byte(wire.TypeHello), 0, 1, 9},
		"call without an offer":   append([]byte{byte(wire.TypeCall), 0, 32}, make([]byte, 32)...),
		"half an ID":              {byte(wire.TypePresent), 0, 2, 1, 2},
		"relays with a body":      {byte(wire.TypeRelaysRq), 0, 1, 1},
		"hello and then no ping":  append(slices.Clone(hello), wire.Message("x").Append(nil)...),
		"a message out of a call": wire.Message("x").Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{})
				p := w.rawPeer("mallory")
				defer p.close()
				p.open(b)
				p.wantClosed(wire.CodeProtocol, name)
			})
		})
	}
}

func TestSecondHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		p := w.rawPeer("mallory")
		defer p.close()
		p.hello()
		p.open(wire.Hello{}.Append(nil))
		p.wantClosed(wire.CodeProtocol, "a second hello")
	})
}

func TestNoHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		p := w.rawPeer("mallory")
		defer p.close()
		p.open([]byte{byte(wire.TypeHello)}) // and no more
		p.wantClosed(wire.CodeProtocol, "no hello")
	})
}

// A callee cannot end a call in the node's name, nor a caller refuse.
func TestForgedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		mallory, bob, alice := w.rawPeer("mallory"), w.peer("bob"), w.peer("alice")
		defer mallory.close()
		bob.wantReady("bob registers")
		alice.wantReady("alice registers")
		mallory.hello()
		out := alice.call(&peer{id: identity("mallory").PeerID()}, "offer")
		in, err := mallory.conn.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		in.Write(wire.End{Code: wire.EndLimited}.Append(nil))
		w.wantEnd(out, io.EOF, "a forged end is not passed on")
		mallory.wantClosed(wire.CodeProtocol, "the forger is thrown out")
	})
}

func TestOversizedMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		mallory, bob := w.rawPeer("mallory"), w.peer("bob")
		defer mallory.close()
		bob.wantReady("bob registers")
		mallory.hello()
		stream := mallory.open(wire.Call{Peer: bob.id, Offer: []byte("offer")}.Append(nil))
		in := bob.wantCall("offer", "the call arrives")
		stream.Write(append([]byte{byte(wire.TypeMessage), 0x10, 0x01}, make([]byte, 0x1001)...))
		w.wantEnd(in, io.EOF, "the call ends")
		mallory.wantClosed(wire.CodeProtocol, "an oversized message")
	})
}

// selfMade is a certificate that is not made of an identity.
func selfMade(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestWrongCertificates(t *testing.T) {
	stolen := identity("alice").ClientTLS(identity("node").PeerID()).Certificates[0]
	stolen.PrivateKey = identity("mallory").ClientTLS(identity("node").PeerID()).Certificates[0].PrivateKey
	for name, certs := range map[string][]tls.Certificate{
		"self-made": {selfMade(t)}, "none": nil, "alice's with mallory's key": {stolen},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{})
				conf := identity("mallory").ClientTLS(identity("node").PeerID(), rendezvous.Protocol)
				conf.Certificates = certs
				p, err := w.dial(conf) // the client's side of the handshake is done before the node's
				if err != nil {
					return
				}
				defer p.close()
				select {
				case <-p.conn.Context().Done():
				case <-time.After(time.Minute):
					t.Error("the node accepts it")
				}
				if st := w.node.Stats(); st.CallableNow != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func TestWrongProtocolName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		if p, err := w.dial(identity("mallory").ClientTLS(identity("node").PeerID(), "h3")); err == nil {
			p.close()
			t.Error("the node speaks h3")
		}
	})
}

// Garbage of every first byte and length does not disturb a call.
func TestGarbageOnThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		alice, bob := w.peer("alice"), w.peer("bob")
		alice.wantReady("alice registers")
		bob.wantReady("bob registers")
		out := alice.call(bob, "offer")
		in := bob.wantCall("offer", "it arrives")
		source := w.net.listen(netip.MustParseAddrPort("203.0.113.66:666"))
		random := mrand.NewChaCha8([32]byte{1})
		for first := range 256 {
			for _, size := range []int{0, 1, 2, 19, 20, 21, 42, 43, 100, 1200, 1500} {
				b := make([]byte, size)
				random.Read(b)
				if size > 0 {
					b[0] = byte(first)
				}
				if size >= 20 && first < 4 { // STUN by its cookie
					copy(b[2:], []byte{byte((size - 20) >> 8), byte(size - 20), 0x21, 0x12, 0xa4, 0x42})
				}
				source.WriteTo(b, net.UDPAddrFromAddrPort(w.addr))
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		w.send(in, "answer")
		w.wantMessage(out, "answer", "the call goes on")
		if conns := w.node.Stats().ConnectionsNow; conns > 2+50 {
			t.Errorf("%d connections", conns)
		}
	})
}
