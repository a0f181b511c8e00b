package sallyport

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"
)

// ErrWrongPeer is what a TLS handshake fails with when the other side proved
// to be somebody else than it was pinned to.
var ErrWrongPeer = errors.New("the other side is not the peer that was asked for")

// ServerTLS returns a TLS 1.3 configuration for the accepting side: it
// presents this identity and demands a certificate that proves some PeerID,
// which [PeerIDFromTLS] reads afterwards. Dates, names and authorities in
// certificates are ignored: the key is the identity.
func (id *Identity) ServerTLS(alpn ...string) *tls.Config {
	return id.tlsConfig(alpn, func(cs tls.ConnectionState) error {
		_, err := PeerIDFromTLS(cs)
		return err
	})
}

// ClientTLS returns a TLS 1.3 configuration for the dialing side: it presents
// this identity and accepts no other server than peer; the handshake fails with
// [ErrWrongPeer] otherwise. It also serves to pin an accepting side: put it into
// tls.Config.GetConfigForClient.
func (id *Identity) ClientTLS(peer PeerID, alpn ...string) *tls.Config {
	return id.tlsConfig(alpn, func(cs tls.ConnectionState) error {
		got, err := PeerIDFromTLS(cs)
		if err != nil {
			return err
		}
		if got != peer {
			return fmt.Errorf("%w: want %s, found %s", ErrWrongPeer, peer, got)
		}
		return nil
	})
}

func (id *Identity) tlsConfig(alpn []string, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{id.cert()},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             alpn,
		ServerName:             "sallyport", // one name for all: it tells an observer nothing
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // there is no authority to ask: verify compares the key itself
		VerifyConnection:       verify,
		SessionTicketsDisabled: true,
	}
}

// PeerIDFromTLS returns whom the other side of a completed handshake proved to
// be. It fails where that side sent no certificate, more than one, or a key
// that is not Ed25519.
func PeerIDFromTLS(cs tls.ConnectionState) (PeerID, error) {
	if cs.Version < tls.VersionTLS13 {
		return PeerID{}, errors.New("peer speaks a TLS version before 1.3")
	}
	if n := len(cs.PeerCertificates); n != 1 {
		return PeerID{}, fmt.Errorf("peer sent %d certificates, want 1", n)
	}
	key, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return PeerID{}, errors.New("peer's certificate holds no Ed25519 key")
	}
	id := PeerID(key)
	if err := id.validate(); err != nil {
		return PeerID{}, fmt.Errorf("peer's certificate: %w", err)
	}
	return id, nil
}

// selfSigned wraps the public key in the smallest certificate TLS carries.
func (id *Identity) selfSigned() tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "sallyport"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no well-defined expiration date", RFC 5280 section 4.1.2.5
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ed25519.PublicKey(id.id[:]), id.key())
	if err != nil {
		panic("sallyport: making a certificate: " + err.Error()) // only a broken template or key can
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer{id}}
}

// signer lends the key to package tls without showing it to whoever prints a
// tls.Config.
type signer struct{ id *Identity }

func (s signer) Public() crypto.PublicKey { return ed25519.PublicKey(s.id.id[:]) }

func (s signer) Sign(rand io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.id.key().Sign(rand, msg, opts)
}
