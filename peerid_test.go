package sallyport

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
)

// testIdentity gives the same key for the same number in every run.
func testIdentity(t testing.TB, n byte) *Identity {
	t.Helper()
	id, err := IdentityFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("error is %q, want it to say %q", err, want)
	}
}

// The text form is a promise to everybody who wrote one down.
const (
	rfcPeerHex  = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" // RFC 8032 section 7.1, TEST 1
	rfcPeerText = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenlheif"
)

func TestPeerIDText(t *testing.T) {
	raw, _ := hex.DecodeString(rfcPeerHex)
	id := PeerID(raw)
	if got := id.String(); got != rfcPeerText {
		t.Errorf("text form is %s, want %s", got, rfcPeerText)
	}
	if got := id.Short(); got != rfcPeerText[:10] {
		t.Errorf("short form is %s, want %s", got, rfcPeerText[:10])
	}
	for _, s := range []string{rfcPeerText, strings.ToUpper(rfcPeerText), rfcPeerText[:20] + strings.ToUpper(rfcPeerText[20:])} {
		if got, err := ParsePeerID(s); err != nil || got != id {
			t.Errorf("ParsePeerID(%q) = %v, %v", s, got, err)
		}
	}
	for n := range byte(50) {
		id := testIdentity(t, n).PeerID()
		if got, err := ParsePeerID(id.String()); err != nil || got != id {
			t.Errorf("ParsePeerID(%q) = %v, %v", id, got, err)
		}
	}
}

func TestParsePeerIDErrors(t *testing.T) {
	id := rfcPeerText
	other := testIdentity(t, 1).PeerID().String()
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "peer ID is empty"},
		{"node URL", "sally://" + id + "@host:1", "this is a node URL, not a peer ID"},
		{"ticket", Ticket{Peer: testIdentity(t, 1).PeerID()}.String(), "this is a ticket, not a peer ID"},
		{"upper-case ticket", strings.ToUpper(Ticket{Peer: testIdentity(t, 1).PeerID()}.String()), "this is a ticket, not a peer ID"},
		{"one short", id[1:], "peer ID has 55 characters, want 56"},
		{"one long", id + "a", "peer ID has 57 characters, want 56"},
		{"trailing newline", id + "\n", "peer ID has 57 characters, want 56"},
		{"digit 1", id[:6] + "1" + id[7:], `peer ID: character '1' at position 7 cannot occur (a-z and 2-7 do)`},
		{"space", " " + id[1:], `peer ID: character ' ' at position 1 cannot occur`},
		{"newline inside", id[:30] + "\n" + id[31:], `peer ID: character '\n' at position 31 cannot occur`},
		{"padding", id[:55] + "=", `peer ID: character '=' at position 56 cannot occur`},
		{"Kelvin sign, which folds to k", id[:10] + "\u212a" + id[13:], `peer ID: character '` + "\u212a" + `' at position 11 cannot occur`},
		{"not UTF-8", id[:10] + "\xff" + id[11:], `at position 11 cannot occur`},
		{"another ID's tail", id[:50] + other[50:], "peer ID: checksum does not fit, a character is mistyped or missing"},
		{"zero", PeerID{}.String(), "peer ID: not a valid key: point of small order"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParsePeerID(test.text)
			wantError(t, err, test.want)
			if !got.IsZero() {
				t.Errorf("beside the error there is a peer ID %v", got)
			}
		})
	}
}

// A slip of the finger must never name another peer: every character changed
// to every other, every one left out, every one typed twice, every two swapped.
func TestMistypedPeerIDNeverParses(t *testing.T) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	refuse := func(text, s string) {
		if s == text {
			return // two equal neighbours swapped
		}
		if _, err := ParsePeerID(s); err == nil {
			t.Errorf("%s parses, mistyped from %s", s, text)
		}
	}
	for n := range byte(8) {
		text := testIdentity(t, n).PeerID().String()
		for i := range text {
			for _, c := range alphabet {
				refuse(text, text[:i]+string(c)+text[i+1:])
			}
			refuse(text, text[:i]+text[i+1:])
			refuse(text, text[:i]+text[i:i+1]+text[i:])
			if i > 0 {
				refuse(text, text[:i-1]+text[i:i+1]+text[i-1:i]+text[i+1:])
			}
		}
	}
}

// point encodes y (RFC 8032 section 5.1.2) with the sign bit of x as given.
func point(y *big.Int, sign byte) (id PeerID) {
	y.FillBytes(id[:])
	slices.Reverse(id[:])
	id[31] |= sign << 7
	return id
}

func bigHex(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		panic("bad hex " + s)
	}
	return n
}

// smallOrder lists y of every point of order 1, 2, 4 and 8.
func smallOrder() map[string]*big.Int {
	y8 := bigHex("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7")
	return map[string]*big.Int{
		"order 1":           big.NewInt(1),
		"order 2":           new(big.Int).Sub(fieldPrime, big.NewInt(1)),
		"order 4":           big.NewInt(0),
		"order 8":           y8,
		"order 8, other":    new(big.Int).Sub(fieldPrime, y8),
		"order 4, unnormed": fieldPrime,
		"order 1, unnormed": new(big.Int).Add(fieldPrime, big.NewInt(1)),
	}
}

func TestKeysThatAreNoPeers(t *testing.T) {
	refused := func(t *testing.T, id PeerID, want string) {
		t.Helper()
		_, err := ParsePeerID(id.String())
		wantError(t, err, want)
		_, err = Seal(id, "test", []byte("secret"))
		wantError(t, err, want)
		_, err = ParseTicket(Ticket{Peer: id}.String())
		wantError(t, err, want)
	}
	for name, y := range smallOrder() {
		want := "point of small order"
		if y.Cmp(fieldPrime) >= 0 {
			want = "coordinate out of range"
		}
		t.Run(name, func(t *testing.T) {
			refused(t, point(y, 0), want)
			refused(t, point(y, 1), want)
			if Verify(point(y, 0), "test", []byte("m"), forged(point(y, 0))) {
				t.Error("a forged signature verifies")
			}
		})
	}
	t.Run("off the curve", func(t *testing.T) {
		refused(t, point(big.NewInt(2), 0), "no point of the curve")
	})
	t.Run("beyond the field", func(t *testing.T) {
		for n := int64(2); n < 19; n++ {
			refused(t, point(new(big.Int).Add(fieldPrime, big.NewInt(n)), 0), "coordinate out of range")
		}
	})
}

// forged is R = key, S = 0: for a key of small order "[S]B = R + [k]A" (RFC
// 8032 section 5.1.7) holds for one message in eight at least, with no secret.
func forged(id PeerID) []byte { return append(id[:], make([]byte, 32)...) }

// Standard Ed25519 accepts such a forgery: without this the test above would
// prove nothing.
func TestSmallOrderIsRealDanger(t *testing.T) {
	id := point(big.NewInt(1), 0)
	if !plainVerify(id, "test", []byte("any message"), forged(id)) {
		t.Fatal("crypto/ed25519 refuses the identity point by itself now: simplify validate")
	}
	if Verify(id, "test", []byte("any message"), forged(id)) {
		t.Fatal("forged signature verifies")
	}
}

// validate against X25519, which shares no code with it: the low-order points
// are those that multiply to zero.
func TestSmallOrderAgreesWithX25519(t *testing.T) {
	key, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, y := range smallOrder() {
		u := new(big.Int)
		if inverse := new(big.Int).ModInverse(new(big.Int).Sub(big.NewInt(1), y), fieldPrime); inverse != nil {
			u.Mul(inverse, new(big.Int).Add(y, big.NewInt(1))).Mod(u, fieldPrime)
		}
		raw := point(u, 0)
		pub, err := ecdh.X25519().NewPublicKey(raw[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.ECDH(pub); err == nil {
			t.Errorf("%s: X25519 does not find u = %x of low order", name, u)
		}
	}
}

func TestPeerIDOrderAndJSON(t *testing.T) {
	a, b := PeerID{1}, PeerID{1, 1}
	if a.Compare(b) != -1 || b.Compare(a) != 1 || a.Compare(a) != 0 {
		t.Error("Compare does not order by bytes")
	}
	if a.IsZero() || !(PeerID{}).IsZero() {
		t.Error("IsZero is wrong")
	}
	id := testIdentity(t, 1).PeerID()
	text, err := json.Marshal(map[PeerID]PeerID{id: id})
	if err != nil {
		t.Fatal(err)
	}
	var back map[PeerID]PeerID
	if err := json.Unmarshal(text, &back); err != nil || back[id] != id {
		t.Errorf("JSON round trip: %v, %v", back, err)
	}
	kept := id
	wantError(t, kept.UnmarshalText([]byte("x")), "peer ID has 1 characters")
	if kept != id {
		t.Error("a failed UnmarshalText changed the ID")
	}
}

func FuzzParsePeerID(f *testing.F) {
	for n := range byte(4) {
		f.Add(testIdentity(f, n).PeerID().String())
		f.Add(strings.ToUpper(testIdentity(f, n).PeerID().String()))
	}
	f.Add(PeerID{}.String())
	f.Add(strings.Repeat("a", 56))
	f.Add("\u212a" + rfcPeerText[3:])
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParsePeerID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("%q parses to %s", s, id)
		}
		if err == nil && id.validate() != nil {
			t.Errorf("%q parses to an unusable key", s)
		}
	})
}
