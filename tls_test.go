package sallyport

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// handshake runs both sides over loopback (a net.Pipe holds no bytes, so that
// two sides which both complain wait for each other). The server greets: a
// client of TLS 1.3 learns only then whether its own certificate was good.
func handshake(t *testing.T, client, server *tls.Config) (c, s tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		conn := tls.Server(raw, server)
		if serverErr = conn.Handshake(); serverErr == nil {
			_, serverErr = conn.Write([]byte{1})
			conn.Read(make([]byte, 1)) // until the client has gone
		}
		s = conn.ConnectionState()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	if clientErr = conn.Handshake(); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	c = conn.ConnectionState()
	raw.Close()
	<-done
	return c, s, clientErr, serverErr
}

func wantPeer(t *testing.T, cs tls.ConnectionState, want *Identity) {
	t.Helper()
	if got, err := PeerIDFromTLS(cs); err != nil || got != want.PeerID() {
		t.Errorf("PeerIDFromTLS = %v, %v; want %v", got, err, want)
	}
}

func TestTLSNamesBothSides(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	c, s, clientErr, serverErr := handshake(t, alice.ClientTLS(bob.PeerID(), "sally/1"), bob.ServerTLS("other", "sally/1"))
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	wantPeer(t, c, bob)
	wantPeer(t, s, alice)
	if c.Version != tls.VersionTLS13 || c.NegotiatedProtocol != "sally/1" || s.NegotiatedProtocol != "sally/1" {
		t.Errorf("version %x, protocols %q and %q", c.Version, c.NegotiatedProtocol, s.NegotiatedProtocol)
	}
	if s.DidResume || c.DidResume {
		t.Error("a session was resumed")
	}
}

func TestTLSPinsBothWays(t *testing.T) {
	alice, bob, eve := testIdentity(t, 1), testIdentity(t, 2), testIdentity(t, 3)
	pinned := func(id *Identity, peer PeerID) *tls.Config {
		config := id.ServerTLS()
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return id.ClientTLS(peer), nil }
		return config
	}
	t.Run("right peer", func(t *testing.T) {
		_, _, clientErr, serverErr := handshake(t, alice.ClientTLS(bob.PeerID()), pinned(bob, alice.PeerID()))
		if clientErr != nil || serverErr != nil {
			t.Error(clientErr, serverErr)
		}
	})
	t.Run("wrong server", func(t *testing.T) {
		_, _, clientErr, serverErr := handshake(t, alice.ClientTLS(bob.PeerID()), eve.ServerTLS())
		if !errors.Is(clientErr, ErrWrongPeer) {
			t.Errorf("client: %v, want ErrWrongPeer", clientErr)
		}
		wantError(t, clientErr, "want "+bob.PeerID().String()+", found "+eve.PeerID().String())
		if serverErr == nil {
			t.Error("server: no error")
		}
	})
	t.Run("wrong client", func(t *testing.T) {
		_, _, clientErr, serverErr := handshake(t, eve.ClientTLS(bob.PeerID()), pinned(bob, alice.PeerID()))
		if !errors.Is(serverErr, ErrWrongPeer) {
			t.Errorf("server: %v, want ErrWrongPeer", serverErr)
		}
		if clientErr == nil {
			t.Error("client: no error")
		}
	})
}

// foreign makes a certificate that is none of ours.
func foreign(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestTLSRefuses(t *testing.T) {
	alice, bob, eve := testIdentity(t, 1), testIdentity(t, 2), testIdentity(t, 3)
	stolen := alice.cert()
	stolen.PrivateKey = signer{eve}
	twice := alice.cert()
	twice.Certificate = append(twice.Certificate[:1:1], twice.Certificate[0])
	for _, test := range []struct {
		name   string
		change func(*tls.Config)
		want   string
	}{
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, "didn't provide a certificate"},
		{"ECDSA certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{foreign(t)} }, "holds no Ed25519 key"},
		{"two certificates", func(c *tls.Config) { c.Certificates = []tls.Certificate{twice} }, "peer sent 2 certificates, want 1"},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "unsupported versions"},
		{"somebody else's certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{stolen} }, "invalid signature"},
	} {
		t.Run(test.name+" of the client", func(t *testing.T) {
			config := alice.ClientTLS(bob.PeerID())
			test.change(config)
			_, _, clientErr, serverErr := handshake(t, config, bob.ServerTLS())
			wantError(t, serverErr, test.want)
			if clientErr == nil {
				t.Error("client: no error")
			}
		})
	}
	for _, test := range []struct {
		name   string
		change func(*tls.Config)
		want   string
	}{
		{"ECDSA certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{foreign(t)} }, "holds no Ed25519 key"},
		{"two certificates", func(c *tls.Config) { c.Certificates = []tls.Certificate{twice} }, "peer sent 2 certificates, want 1"},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "protocol version"},
		{"somebody else's certificate", func(c *tls.Config) { c.Certificates = []tls.Certificate{stolen} }, "invalid signature"},
		{"no shared protocol", func(c *tls.Config) { c.NextProtos = []string{"other"} }, "no application protocol"},
	} {
		t.Run(test.name+" of the server", func(t *testing.T) {
			config := alice.ServerTLS("sally/1")
			test.change(config)
			_, _, clientErr, serverErr := handshake(t, bob.ClientTLS(alice.PeerID(), "sally/1"), config)
			wantError(t, clientErr, test.want)
			if serverErr == nil {
				t.Error("server: no error")
			}
		})
	}
}

// "a clock that is a day off" is no reason to fail, nor is one that is decades off.
func TestTLSIgnoresTheClock(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	for _, now := range []time.Time{time.Unix(0, 0), time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		client, server := alice.ClientTLS(bob.PeerID()), bob.ServerTLS()
		client.Time, server.Time = func() time.Time { return now }, func() time.Time { return now }
		if _, _, clientErr, serverErr := handshake(t, client, server); clientErr != nil || serverErr != nil {
			t.Errorf("in %v: %v, %v", now, clientErr, serverErr)
		}
	}
}

func TestPeerIDFromTLSRefuses(t *testing.T) {
	weak := point(big.NewInt(0), 0)
	with := func(version uint16, keys ...any) tls.ConnectionState {
		cs := tls.ConnectionState{Version: version}
		for _, key := range keys {
			cs.PeerCertificates = append(cs.PeerCertificates, &x509.Certificate{PublicKey: key})
		}
		return cs
	}
	good := ed25519.PublicKey(testIdentity(t, 1).id[:])
	for _, test := range []struct {
		cs   tls.ConnectionState
		want string
	}{
		{with(tls.VersionTLS12, good), "TLS version before 1.3"},
		{with(tls.VersionTLS13), "peer sent 0 certificates, want 1"},
		{with(tls.VersionTLS13, good, good), "peer sent 2 certificates, want 1"},
		{with(tls.VersionTLS13, good[:31]), "holds no Ed25519 key"},
		{with(tls.VersionTLS13, "text"), "holds no Ed25519 key"},
		{with(tls.VersionTLS13, ed25519.PublicKey(weak[:])), "point of small order"},
	} {
		id, err := PeerIDFromTLS(test.cs)
		wantError(t, err, test.want)
		if !id.IsZero() {
			t.Errorf("beside the error there is a peer ID %v", id)
		}
	}
	wantPeer(t, with(tls.VersionTLS13, good), testIdentity(t, 1))
}

func TestCertificateTellsNothingButTheKey(t *testing.T) {
	cert, err := x509.ParseCertificate(testIdentity(t, 1).cert().Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.String() != "CN=sallyport" || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
		t.Errorf("certificate names %v %v %v", cert.Subject, cert.DNSNames, cert.IPAddresses)
	}
	if strings.Contains(cert.NotBefore.String(), time.Now().Format("2006")) {
		t.Error("certificate tells when it was made")
	}
}
