package sallyport

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha512"
	"fmt"
)

// SealOverhead is how many bytes [Seal] adds: the encapsulated X25519 key and
// the authentication tag.
const SealOverhead = 32 + 16

// Seal encrypts plaintext so that only the holder of to can read it: HPKE in
// base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
// AES-256-GCM. The receiver must give the same info. Sealing says nothing
// about the sender: sign inside where that matters.
func Seal(to PeerID, info string, plaintext []byte) ([]byte, error) {
	pk, err := to.sealingKey()
	if err != nil {
		return nil, fmt.Errorf("sealing to %s: %w", to.Short(), err)
	}
	sealed, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), plaintext)
	if err != nil {
		return nil, fmt.Errorf("sealing to %s: %w", to.Short(), err)
	}
	return sealed, nil
}

// Open decrypts what [Seal] made for this identity with the same info.
func (id *Identity) Open(info string, sealed []byte) ([]byte, error) {
	sk, err := id.openingKey()
	if err != nil {
		return nil, fmt.Errorf("opening a sealed message: %w", err)
	}
	plaintext, err := hpke.Open(sk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), sealed)
	if err != nil {
		return nil, fmt.Errorf("opening a sealed message: %w", err)
	}
	return plaintext, nil
}

// openingKey is the X25519 private key that belongs to the Ed25519 key: the
// scalar of RFC 8032 section 5.1.5, which X25519 clamps in the same way.
func (id *Identity) openingKey() (hpke.PrivateKey, error) {
	scalar := sha512.Sum512(id.key().Seed())
	key, err := ecdh.X25519().NewPrivateKey(scalar[:32])
	if err != nil {
		return nil, err
	}
	return hpke.NewDHKEMPrivateKey(key)
}

// sealingKey is the X25519 public key that belongs to the Ed25519 key.
func (id PeerID) sealingKey() (hpke.PublicKey, error) {
	u, err := id.montgomery()
	if err != nil {
		return nil, err
	}
	key, err := ecdh.X25519().NewPublicKey(u[:])
	if err != nil {
		return nil, err
	}
	return hpke.NewDHKEMPublicKey(key)
}
