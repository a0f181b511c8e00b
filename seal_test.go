package sallyport

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha512"
	"testing"
)

func TestSealOpen(t *testing.T) {
	alice := testIdentity(t, 1)
	for _, plaintext := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("offer"), 800)} {
		sealed, err := Seal(alice.PeerID(), "offer", plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len(plaintext)+SealOverhead {
			t.Errorf("%d bytes are sealed in %d, want %d more", len(plaintext), len(sealed), SealOverhead)
		}
		got, err := alice.Open("offer", sealed)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("Open = %q, %v, want %q", got, err, plaintext)
		}
	}
	a, _ := Seal(alice.PeerID(), "offer", nil)
	b, _ := Seal(alice.PeerID(), "offer", nil)
	if bytes.Equal(a, b) {
		t.Error("sealing twice gives the same bytes")
	}
}

func TestOpenRefuses(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	plaintext := []byte("candidates")
	sealed, err := Seal(alice.PeerID(), "offer", plaintext)
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(id *Identity, info string, sealed []byte, why string) {
		t.Helper()
		got, err := id.Open(info, sealed)
		if err == nil {
			t.Errorf("%s: opened to %q", why, got)
			return
		}
		wantError(t, err, "opening a sealed message: ")
	}
	refuse(alice, "answer", sealed, "wrong info")
	refuse(alice, "", sealed, "no info")
	refuse(bob, "offer", sealed, "wrong key")
	for n := range sealed {
		refuse(alice, "offer", sealed[:n], "truncated")
	}
	refuse(alice, "offer", append(bytes.Clone(sealed), 0), "a byte too many")
	for i := range sealed {
		tampered := bytes.Clone(sealed)
		tampered[i] ^= 1
		refuse(alice, "offer", tampered, "tampered")
	}
	refuse(alice, "offer", make([]byte, 100), "zeros: a low-order encapsulated key")
	refuse(alice, "offer", bytes.Repeat([]byte{0xff}, 100), "ones")
}

// The public half mapped to X25519 is the public half of the private half
// mapped to X25519.
func TestSealingKeysAgree(t *testing.T) {
	for range 200 {
		id, err := NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		scalar := sha512.Sum512(id.key().Seed())
		private, err := ecdh.X25519().NewPrivateKey(scalar[:32])
		if err != nil {
			t.Fatal(err)
		}
		u, err := id.PeerID().montgomery()
		if err != nil {
			t.Fatal(err)
		}
		if want := private.PublicKey().Bytes(); !bytes.Equal(u[:], want) { // X25519(scalar, 9)
			t.Fatalf("%v maps to %x, X25519 says %x", id, u, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	alice := testIdentity(f, 1)
	for _, plaintext := range []string{"", "candidates"} {
		sealed, err := Seal(alice.PeerID(), "offer", []byte(plaintext))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
		f.Add(sealed[:len(sealed)-1])
	}
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if plaintext, err := alice.Open("offer", sealed); err == nil && len(plaintext) != len(sealed)-SealOverhead {
			t.Errorf("%d bytes opened to %d", len(sealed), len(plaintext))
		}
	})
}
