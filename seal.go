package sallyport

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// SealOverhead is how many bytes [Seal] adds: the encapsulated X25519 key and
// the authentication tag.
const SealOverhead = 32 + 16

// Seal encrypts plaintext so that only the holder of to can read it: HPKE in
// base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
// AES-256-GCM. The receiver must give the same info. Sealing says nothing
// about the sender: sign inside where that matters.
func Seal(to PeerID, info string, plaintext []byte) ([]byte, error) {
	pub, err := to.sealingKey()
	if err != nil {
		return nil, fmt.Errorf("sealing to %s: %w", to.Short(), err)
	}
	pk, err := hpke.NewDHKEMPublicKey(pub)
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
	scalar := sha512.Sum512(id.key.Seed())
	key, err := ecdh.X25519().NewPrivateKey(scalar[:32])
	if err != nil {
		return nil, err
	}
	return hpke.NewDHKEMPrivateKey(key)
}

var fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))

// sealingKey maps the Ed25519 public key to X25519: "u = (1+y)/(1-y)", RFC
// 7748 section 4.1. The input is public, so the arithmetic need not run in
// constant time.
func (id PeerID) sealingKey() (*ecdh.PublicKey, error) {
	le := id
	le[31] &= 0x7f // the sign of x does not matter for u
	slices.Reverse(le[:])
	y := new(big.Int).SetBytes(le[:])
	if y.Cmp(fieldPrime) >= 0 {
		return nil, errors.New("not a valid key: coordinate out of range")
	}
	one := big.NewInt(1)
	denominator := new(big.Int).Sub(one, y)
	if denominator.Sign() == 0 || y.Sign() == 0 {
		return nil, errors.New("not a valid key: point of small order")
	}
	inverse := denominator.ModInverse(denominator.Mod(denominator, fieldPrime), fieldPrime)
	u := inverse.Mul(inverse, y.Add(y, one))
	var out [32]byte
	u.Mod(u, fieldPrime).FillBytes(out[:])
	slices.Reverse(out[:])
	return ecdh.X25519().NewPublicKey(out[:])
}
