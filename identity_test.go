package sallyport

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func plainVerify(id PeerID, context string, msg, sig []byte) bool {
	return ed25519.VerifyWithOptions(id[:], msg, sig, &ed25519.Options{Context: context}) == nil
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNewIdentitiesDiffer(t *testing.T) {
	a, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if a.PeerID() == b.PeerID() || a.PeerID().IsZero() {
		t.Errorf("two new identities are %v and %v", a, b)
	}
}

func TestIdentityFromSeed(t *testing.T) {
	// RFC 8032 section 7.1, TEST 1.
	id, err := IdentityFromSeed(unhex(t, "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
	if err != nil {
		t.Fatal(err)
	}
	if got := id.PeerID().String(); got != rfcPeerText {
		t.Errorf("peer ID is %s, want %s", got, rfcPeerText)
	}
	for _, n := range []int{0, 31, 33, 64} {
		_, err := IdentityFromSeed(make([]byte, n))
		wantError(t, err, fmt.Sprintf("identity seed has %d bytes, want 32", n))
	}
}

// RFC 8032 section 7.2, "foo".
func TestSignIsEd25519ctx(t *testing.T) {
	id, err := IdentityFromSeed(unhex(t, "0305334e381af78f141cb666f6199f57bc3495335a256a95bd2a55bf546663f6"))
	if err != nil {
		t.Fatal(err)
	}
	msg := unhex(t, "f726936d19c800494e3fdaff20b276a8")
	want := "55a4cc2f70a54e04288c5f4cd1e45a7bb520b36292911876cada7323198dd87a8b36950b95130022907a7fb7c4e9b2d5f6cca685a587b4b21f4b888e4e7edb0d"
	if got := hex.EncodeToString(id.Sign("foo", msg)); got != want {
		t.Errorf("signature is %s, want %s", got, want)
	}
}

func TestSignatureIsBoundToEverything(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	msg := []byte("message")
	sig := alice.Sign("offer", msg)
	if len(sig) != 64 {
		t.Fatalf("signature has %d bytes, want 64", len(sig))
	}
	if !Verify(alice.PeerID(), "offer", msg, sig) {
		t.Fatal("right signature does not verify")
	}
	long := strings.Repeat("x", 255)
	if !Verify(alice.PeerID(), long, msg, alice.Sign(long, msg)) {
		t.Error("context of 255 bytes does not verify")
	}
	flipped := bytes.Clone(sig)
	flipped[40] ^= 1
	for name, ok := range map[string]bool{
		"other signer":            Verify(bob.PeerID(), "offer", msg, sig),
		"other context":           Verify(alice.PeerID(), "answer", msg, sig),
		"context's prefix":        Verify(alice.PeerID(), "offe", msg, sig),
		"no context":              Verify(alice.PeerID(), "", msg, sig),
		"plain signature":         Verify(alice.PeerID(), "", msg, ed25519.Sign(alice.key(), msg)),
		"context of 256":          Verify(alice.PeerID(), long+"x", msg, sig),
		"context in the message":  Verify(alice.PeerID(), "offerm", msg[1:], sig),
		"other message":           Verify(alice.PeerID(), "offer", msg[1:], sig),
		"no signature":            Verify(alice.PeerID(), "offer", msg, nil),
		"short signature":         Verify(alice.PeerID(), "offer", msg, sig[:63]),
		"long signature":          Verify(alice.PeerID(), "offer", msg, append(bytes.Clone(sig), 0)),
		"flipped bit":             Verify(alice.PeerID(), "offer", msg, flipped),
		"zero peer":               Verify(PeerID{}, "offer", msg, sig),
		"used as TLS uses keys":   ed25519.Verify(alice.id[:], msg, sig),
		"zero peer, zero message": Verify(PeerID{}, "offer", nil, make([]byte, 64)),
	} {
		if ok {
			t.Errorf("%s verifies", name)
		}
	}
}

func TestSignPanicsWithoutContext(t *testing.T) {
	for _, context := range []string{"", strings.Repeat("x", 256)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("context of %d bytes was signed", len(context))
				}
			}()
			testIdentity(t, 1).Sign(context, nil)
		}()
	}
}

func TestDeriveKey(t *testing.T) {
	alice := testIdentity(t, 1)
	key := alice.DeriveKey("quic reset", 32)
	if len(key) != 32 || !bytes.Equal(key, testIdentity(t, 1).DeriveKey("quic reset", 32)) {
		t.Error("the same identity derives another key after a restart")
	}
	if bytes.Equal(key, alice.DeriveKey("quic token", 32)) || bytes.Equal(key, testIdentity(t, 2).DeriveKey("quic reset", 32)) {
		t.Error("another label or identity derives the same key")
	}
	if bytes.Contains(key, alice.key().Seed()) {
		t.Error("the derived key is the private key")
	}
}

// Whatever prints an identity, or something that holds one, shows the public
// half only.
func TestPrivateKeyNeverPrints(t *testing.T) {
	id := testIdentity(t, 0xA7)
	type holder struct {
		Identity *Identity
		hidden   *Identity
		value    any
	}
	things := map[string]any{
		"identity":         id,
		"its value":        *id, // the copy is the point
		"holder":           holder{id, id, id},
		"pointer":          &holder{id, id, *id},
		"slice":            []*Identity{id},
		"client TLS":       id.ClientTLS(id.PeerID()),
		"server TLS":       id.ServerTLS(),
		"TLS certificate":  id.cert(),
		"certificate list": id.ServerTLS().Certificates,
	}
	var out strings.Builder
	for name, thing := range things {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%T", "%20v", "%w"} {
			fmt.Fprintf(&out, name+" "+verb+"\n", thing)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "thing", thing)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "thing", thing)
		text, _ := json.Marshal(thing)
		out.Write(text)
	}
	printed := strings.ToLower(out.String())
	for _, leak := range []string{"a7a7a7", "167 167 167", "0xa7, 0xa7, 0xa7", "247 247 247", "p6enp6en", "10100111 10100111", "u+00a7 u+00a7", "\xa7\xa7\xa7", "§ § §", `\xa7\xa7`} {
		if i := strings.Index(printed, leak); i >= 0 {
			t.Errorf("the private key shows as %q: …%q", leak, printed[max(0, i-80):i+20])
		}
	}
	if !strings.Contains(printed, "identity "+id.PeerID().String()) || !strings.Contains(printed, "thing="+id.PeerID().Short()) {
		t.Error("an identity does not print as its peer ID")
	}
}
