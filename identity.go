package sallyport

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// Identity is the private half of a [PeerID]: the key a program holds. It is
// safe for concurrent use, prints as its PeerID only, and must not be copied.
type Identity struct {
	id   PeerID
	key  func() ed25519.PrivateKey // behind a function, so that nothing prints or compares it
	cert func() tls.Certificate
}

// NewIdentity makes a fresh key from the system's random source.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an identity: %w", err)
	}
	return newIdentity(key), nil
}

// IdentityFromSeed derives the key from 32 secret bytes (RFC 8032 section
// 5.1.5); the same seed gives the same PeerID.
func IdentityFromSeed(seed []byte) (*Identity, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("identity seed has %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return newIdentity(ed25519.NewKeyFromSeed(seed)), nil
}

func newIdentity(key ed25519.PrivateKey) *Identity {
	id := &Identity{
		id:  PeerID(key.Public().(ed25519.PublicKey)),
		key: func() ed25519.PrivateKey { return key },
	}
	id.cert = sync.OnceValue(id.selfSigned)
	return id
}

// PeerID returns the public half.
func (id *Identity) PeerID() PeerID { return id.id }

// String returns the PeerID; the private key never prints.
func (id *Identity) String() string { return id.id.String() }

// Format prints the PeerID, whatever the verb.
func (id *Identity) Format(s fmt.State, _ rune) { io.WriteString(s, id.String()) }

// LogValue logs the short form of the PeerID alone.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.id.Short()) }

// Sign signs msg for one purpose with Ed25519ctx (RFC 8032 section 5.1): a
// signature made for one context never verifies for another. The context is 1
// to 255 bytes; the signature is 64 bytes.
func (id *Identity) Sign(context string, msg []byte) []byte {
	if context == "" {
		panic("sallyport: signing without a context") // would be a plain signature, as TLS makes them
	}
	sig, err := id.key().Sign(nil, msg, &ed25519.Options{Context: context})
	if err != nil {
		panic("sallyport: signing context: " + err.Error()) // a constant of the caller's is out of range
	}
	return sig
}

// Verify reports whether sig is id's signature of msg for the same context. It
// is false for an id that names no peer, such as one that anybody can sign for.
func Verify(id PeerID, context string, msg, sig []byte) bool {
	return context != "" && id.validate() == nil &&
		ed25519.VerifyWithOptions(id[:], msg, sig, &ed25519.Options{Context: context}) == nil
}

// DeriveKey returns n secret bytes (at most 255*32) that depend on the key and
// the label alone, by HKDF-SHA256 (RFC 5869). They survive a restart, as QUIC's
// stateless reset and token keys must.
func (id *Identity) DeriveKey(label string, n int) []byte {
	key, err := hkdf.Key(sha256.New, id.key().Seed(), nil, "sallyport "+label, n)
	if err != nil {
		panic("sallyport: deriving a key: " + err.Error()) // n is out of range
	}
	return key
}
