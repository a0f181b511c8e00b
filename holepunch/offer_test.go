package holepunch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport"
)

func testIdentity(t testing.TB, n byte) *sallyport.Identity {
	t.Helper()
	id, err := sallyport.IdentityFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func cand(k Kind, addr, via string) Candidate {
	return Candidate{Kind: k, Addr: netip.MustParseAddrPort(addr), Via: via}
}

func testOffer(caller, callee sallyport.PeerID) *Offer {
	return &Offer{
		Caller: caller, Callee: callee,
		Nonce: Nonce{0xaa}, Secret: [32]byte{0xbb}, Created: time.UnixMilli(1_700_000_000_123), NodeRTT: 40 * time.Millisecond, Flags: 5,
		Candidates: []Candidate{cand(ServerReflexive, "192.0.2.1:4000", ""), cand(Host, "[2001:db8::1]:4001", ""), cand(Relayed, "198.51.100.9:50000", "r1")},
		Flight:     [][]byte{bytes.Repeat([]byte{0xc0}, 1280), {1, 2}},
	}
}

func TestOfferRoundTrip(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	o := testOffer(alice.PeerID(), bob.PeerID())
	sealed, err := SealOffer(alice, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenOffer(bob, alice.PeerID(), sealed)
	if err != nil || !reflect.DeepEqual(got, o) {
		t.Fatalf("opened %+v, %v\nwant %+v", got, err, o)
	}

	a := &Answer{NodeRTT: time.Second, Candidates: o.Candidates[:1], Flight: [][]byte{{9}}}
	sealed, err = SealAnswer(bob, got, a)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := OpenAnswer(alice, o, sealed); err != nil || !reflect.DeepEqual(answer, a) {
		t.Errorf("answer %+v, %v", answer, err)
	}
	other := *o
	other.Nonce[15] = 1
	if _, err := OpenAnswer(alice, &other, sealed); !errors.Is(err, ErrOtherOffer) {
		t.Errorf("the answer to another offer: %v", err)
	}

	for _, side := range []struct{ from, to *sallyport.Identity }{{alice, bob}, {bob, alice}} {
		u := &Update{Candidates: []Candidate{cand(Relayed, "198.51.100.9:50001", "r2")}}
		sealed, err := SealUpdate(side.from, o, u)
		if err != nil {
			t.Fatal(err)
		}
		if update, err := OpenUpdate(side.to, o, sealed); err != nil || !reflect.DeepEqual(update, u) {
			t.Errorf("update %+v, %v", update, err)
		}
		if _, err := OpenUpdate(side.from, o, sealed); !errors.Is(err, ErrForged) {
			t.Errorf("our own update, reflected: %v", err)
		}
	}
}

func TestOfferForged(t *testing.T) {
	alice, bob, eve := testIdentity(t, 1), testIdentity(t, 2), testIdentity(t, 3)
	sealed, err := SealOffer(alice, testOffer(alice.PeerID(), bob.PeerID()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOffer(bob, eve.PeerID(), sealed); !errors.Is(err, ErrForged) {
		t.Errorf("the node names another caller: %v", err)
	}
	if _, err := OpenOffer(eve, alice.PeerID(), sealed); !errors.Is(err, ErrForged) {
		t.Errorf("somebody else's offer: %v", err)
	}
	if _, err := OpenOffer(alice, bob.PeerID(), sealed); !errors.Is(err, ErrForged) {
		t.Errorf("reflected to the caller: %v", err)
	}
	if _, err := SealOffer(eve, testOffer(alice.PeerID(), bob.PeerID())); err == nil {
		t.Errorf("eve sealed as alice")
	}
	// Bob opens alice's offer and seals it on to eve: her signature does not fit.
	body, err := open(bob, alice.PeerID(), roleOffer, sealed)
	if err != nil {
		t.Fatal(err)
	}
	sig := alice.Sign(roleOffer.context, transcript(alice.PeerID(), bob.PeerID(), body))
	forwarded, err := sallyport.Seal(eve.PeerID(), roleOffer.info, slices.Concat(sig, body))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOffer(eve, alice.PeerID(), forwarded); !errors.Is(err, ErrForged) {
		t.Errorf("an offer to bob, forwarded by bob: %v", err)
	}
	// An answer is no offer, though sealed and signed by the same two.
	asAnswer, err := SealAnswer(bob, testOffer(alice.PeerID(), bob.PeerID()), &Answer{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOffer(alice, bob.PeerID(), asAnswer); !errors.Is(err, ErrForged) {
		t.Errorf("an answer taken for an offer: %v", err)
	}
	for i := 0; i < len(sealed); i += 7 {
		bad := slices.Clone(sealed)
		bad[i] ^= 1
		if _, err := OpenOffer(bob, alice.PeerID(), bad); !errors.Is(err, ErrForged) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if _, err := OpenOffer(bob, alice.PeerID(), sealed[:i]); !errors.Is(err, ErrForged) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := OpenOffer(bob, alice.PeerID(), make([]byte, 1<<20)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a megabyte: %v", err)
	}
}

func TestOfferTooLarge(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	o := testOffer(alice.PeerID(), bob.PeerID())
	o.Flight = [][]byte{make([]byte, 1400), make([]byte, 1400), make([]byte, 1400)}
	_, err := SealOffer(alice, o)
	var large *TooLargeError
	if !errors.Is(err, ErrTooLarge) || !errors.As(err, &large) || !strings.Contains(err.Error(), "flight (3 datagrams in 4206 bytes)") {
		t.Errorf("three datagrams: %v", err)
	}

	// The largest that fits is exactly MaxSealed.
	o.Flight = [][]byte{make([]byte, 1400), make([]byte, 1400), {0}}
	sealed, err := SealOffer(alice, o)
	if err != nil {
		t.Fatal(err)
	}
	o.Flight[2] = make([]byte, 1+MaxSealed-len(sealed))
	if sealed, err = SealOffer(alice, o); err != nil || len(sealed) != MaxSealed {
		t.Errorf("%d bytes, %v", len(sealed), err)
	}
	o.Flight[2] = append(o.Flight[2], 0)
	if _, err = SealOffer(alice, o); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}

	// Every bound at once, without a flight, fits.
	o.Flight, o.Candidates = nil, nil
	for i := range MaxCandidates {
		o.Candidates = append(o.Candidates, cand(Relayed, fmt.Sprintf("[2001:db8::%x]:4000", i+1), strings.Repeat("r", MaxVia)))
	}
	if _, err := SealOffer(alice, o); err != nil {
		t.Errorf("%d candidates: %v", MaxCandidates, err)
	}
}

func TestOfferMalformed(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	for name, change := range map[string]func(o *Offer){
		"a thousand candidates": func(o *Offer) { o.Candidates = slices.Repeat(o.Candidates[:1], 1000) },
		"nine datagrams":        func(o *Offer) { o.Flight = slices.Repeat([][]byte{{1}}, MaxFlight+1) },
		"empty datagram":        func(o *Offer) { o.Flight = [][]byte{{}} },
		"large datagram":        func(o *Offer) { o.Flight = [][]byte{make([]byte, MaxDatagram+1)} },
		"peer-reflexive":        func(o *Offer) { o.Candidates[0].Kind = PeerReflexive },
		"no kind":               func(o *Offer) { o.Candidates[0].Kind = 0 },
		"no address":            func(o *Offer) { o.Candidates[0].Addr = netip.AddrPort{} },
		"host with relay name":  func(o *Offer) { o.Candidates[0].Via = "r1" },
		"long relay name":       func(o *Offer) { o.Candidates[2].Via = strings.Repeat("x", MaxVia+1) },
		"terminal escape":       func(o *Offer) { o.Candidates[2].Via = "\x1b[2J" },
	} {
		o := testOffer(alice.PeerID(), bob.PeerID())
		change(o)
		if _, err := SealOffer(alice, o); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Addresses that are never punched to are dropped from what the peer says; loopback
// is left to the session.
func TestOfferDropsForbidden(t *testing.T) {
	alice, bob := testIdentity(t, 1), testIdentity(t, 2)
	o := testOffer(alice.PeerID(), bob.PeerID())
	good, here := cand(Host, "192.168.1.5:4000", ""), cand(Host, "127.0.0.1:4000", "")
	o.Candidates = []Candidate{here, cand(Host, "[fe80::1]:4000", ""), cand(ServerReflexive, "192.0.2.1:22", ""),
		cand(ServerReflexive, "[64:ff9b::7f00:1]:4000", ""), cand(ServerReflexive, "[2002:7f00:1::]:4000", ""), cand(ServerReflexive, "[::7f00:1]:4000", ""), good, cand(Host, "239.1.2.3:4000", "")}
	sealed, err := SealOffer(alice, o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenOffer(bob, alice.PeerID(), sealed)
	if err != nil || !slices.Equal(got.Candidates, []Candidate{here, good}) {
		t.Errorf("candidates %v, %v", got.Candidates, err)
	}
}

const (
	hexHead  = "01" + "0005" + "aa000000000000000000000000000000" + "bb00000000000000000000000000000000000000000000000000000000000000" + "0000018bcfe5687b" + "00009c40"
	hexParts = "02" + "0204c0000201" + "0fa0" + "0406" + "20010db8000000000000000000000001" + "0fa1" + "02" + "7231" + "01" + "0003" + "c00102"
)

// The layout itself, both ways, and every truncation fails.
func TestOfferLayout(t *testing.T) {
	o := &Offer{Nonce: Nonce{0xaa}, Secret: [32]byte{0xbb}, Created: time.UnixMilli(1_700_000_000_123), NodeRTT: 40 * time.Millisecond, Flags: 5,
		Candidates: []Candidate{cand(ServerReflexive, "192.0.2.1:4000", ""), cand(Relayed, "[2001:db8::1]:4001", "r1")},
		Flight:     [][]byte{{0xc0, 1, 2}}}
	want, _ := hex.DecodeString(hexHead + hexParts)
	got, err := appendOffer(nil, o)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("encoded %x, %v\nwant    %x", got, err, want)
	}
	if parsed, err := parseOffer(want); err != nil || !reflect.DeepEqual(parsed, o) {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	for i := range want {
		if _, err := parseOffer(want[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	for name, s := range map[string]string{
		"trailing byte":       hexHead + hexParts + "00",
		"version 2":           "02" + (hexHead + hexParts)[2:],
		"33 candidates":       hexHead + "21" + strings.Repeat("0204c00002010fa0", 33) + "00",
		"255 candidates":      hexHead + "ff" + strings.Repeat("0204c00002010fa0", 255) + "00",
		"family 5":            hexHead + "01" + "0205c00002010fa0" + "00",
		"kind 0":              hexHead + "01" + "0004c00002010fa0" + "00",
		"peer-reflexive":      hexHead + "01" + "0304c00002010fa0" + "00",
		"mapped":              hexHead + "01" + "0206" + "00000000000000000000ffffc0000201" + "0fa0" + "00",
		"relay name too long": hexHead + "01" + "0404c00002010fa0" + "21" + strings.Repeat("61", 33) + "00",
		"relay name control":  hexHead + "01" + "0404c00002010fa0" + "01" + "1b" + "00",
		"nine datagrams":      hexHead + "00" + "09" + strings.Repeat("000101", 9),
		"empty datagram":      hexHead + "00" + "01" + "0000",
		"datagram of 1501":    hexHead + "00" + "01" + "05dd" + strings.Repeat("00", 1501),
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := parseOffer(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReplayCache(t *testing.T) {
	alice, bob := testIdentity(t, 1).PeerID(), testIdentity(t, 2).PeerID()
	c := NewReplayCache(3)
	offer := func(caller sallyport.PeerID, n byte) *Offer { return &Offer{Caller: caller, Nonce: Nonce{n}} }
	for n := range byte(3) {
		if err := c.Accept(offer(alice, n)); err != nil {
			t.Errorf("offer %d: %v", n, err)
		}
	}
	for n := range byte(3) {
		if err := c.Accept(offer(alice, n)); !errors.Is(err, ErrReplay) {
			t.Errorf("offer %d again: %v", n, err)
		}
	}
	if err := c.Accept(offer(bob, 1)); err != nil {
		t.Errorf("another caller's: %v", err)
	}
	if err := c.Accept(offer(alice, 0)); err != nil {
		t.Errorf("the oldest was not forgotten: %v", err)
	}
	for n := range 1000 {
		if err := c.Accept(offer(bob, byte(n))); err != nil && n < 256 && n != 1 {
			t.Errorf("offer %d: %v", n, err)
		}
	}
	if len(c.seen) != 3 || len(c.ring) != 3 {
		t.Errorf("%d and %d remembered, at most 3", len(c.seen), len(c.ring))
	}
	if NewOffer(time.Now(), alice, bob).Nonce == NewOffer(time.Now(), alice, bob).Nonce {
		t.Errorf("two offers with one nonce")
	}
}

// The inner parse, behind seal and signature: what it accepts encodes to the same bytes.
func FuzzOffer(f *testing.F) {
	seed, _ := hex.DecodeString(hexHead + hexParts)
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add(append([]byte{1, 0, 0}, make([]byte, 24)...))
	f.Add(append([]byte{1}, make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(again []byte, err error) {
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x encodes to %x, %v", b, again, err)
			}
		}
		if o, err := parseOffer(b); err == nil {
			check(appendOffer(nil, o))
		}
		if a, err := parseAnswer(b, Nonce{}); err == nil {
			check(appendAnswer(nil, Nonce{}, a))
		}
		if u, err := parseUpdate(b, Nonce{}); err == nil {
			check(appendUpdate(nil, Nonce{}, u))
		}
	})
}

// The outer parse: sealed bytes of anybody.
func FuzzOpen(f *testing.F) {
	alice, bob := testIdentity(f, 1), testIdentity(f, 2)
	sealed, err := SealOffer(alice, testOffer(alice.PeerID(), bob.PeerID()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed[:40], []byte{})
	f.Add([]byte{}, sealed[:100])
	f.Fuzz(func(t *testing.T, b, plain []byte) {
		if _, err := OpenOffer(bob, alice.PeerID(), b); err == nil {
			t.Fatalf("an offer that alice did not seal was opened")
		}
		sealed, err := sallyport.Seal(bob.PeerID(), roleOffer.info, plain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenOffer(bob, alice.PeerID(), sealed); err == nil {
			t.Fatalf("an offer that alice did not sign was opened")
		}
	})
}

func BenchmarkSealOffer(b *testing.B) {
	alice, bob := testIdentity(b, 1), testIdentity(b, 2)
	o := testOffer(alice.PeerID(), bob.PeerID())
	for b.Loop() {
		if _, err := SealOffer(alice, o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenOffer(b *testing.B) {
	alice, bob := testIdentity(b, 1), testIdentity(b, 2)
	sealed, _ := SealOffer(alice, testOffer(alice.PeerID(), bob.PeerID()))
	for b.Loop() {
		if _, err := OpenOffer(bob, alice.PeerID(), sealed); err != nil {
			b.Fatal(err)
		}
	}
}
