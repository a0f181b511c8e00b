package holepunch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
)

var checkBodies = []struct {
	name  string
	check check
	hex   string
}{
	{"ping", check{typ: ping, counter: 1, txid: 0x0102030405060708},
		"01000000" + "0000000000000001" + "0102030405060708" + "00000000000000000000000000000000" + "0000" + "0000"},
	{"pong, IPv4", check{typ: pong, flags: flagRelayed, counter: 2, txid: 3, observed: netip.MustParseAddrPort("192.0.2.1:4000")},
		"02000001" + "0000000000000002" + "0000000000000003" + "00000000000000000000ffffc0000201" + "0fa0" + "0000"},
	{"pong, IPv6", check{typ: pong, flags: flagConfirmed | 0x8000, counter: 1<<64 - 1, txid: 0, observed: netip.MustParseAddrPort("[2001:db8::1]:65535")},
		"02008002" + "ffffffffffffffff" + "0000000000000000" + "20010db8000000000000000000000001" + "ffff" + "0000"},
}

func TestCheckBody(t *testing.T) {
	for _, tt := range checkBodies {
		t.Run(tt.name, func(t *testing.T) {
			want, _ := hex.DecodeString(tt.hex)
			if got := tt.check.appendBody(nil); !bytes.Equal(got, want) {
				t.Errorf("encoded %x\nwant    %x", got, want)
			}
			got, err := parseCheckBody(want)
			if err != nil || got != tt.check {
				t.Errorf("parsed %+v, %v, want %+v", got, err, tt.check)
			}
			for i := range want {
				if _, err := parseCheckBody(want[:i]); !errors.Is(err, ErrMalformed) {
					t.Errorf("cut to %d bytes: %v", i, err)
				}
			}
		})
	}
}

func TestCheckBodyMalformed(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"unknown type":         func(b []byte) { b[0] = 3 },
		"type zero":            func(b []byte) { b[0] = 0 },
		"reserved byte":        func(b []byte) { b[1] = 1 },
		"last byte":            func(b []byte) { b[39] = 1 },
		"ping with an address": func(b []byte) { b[30] = 1 },
		"ping with a port":     func(b []byte) { b[37] = 1 },
		"pong without address": func(b []byte) { b[0] = 2 },
	} {
		b := check{typ: ping, counter: 1}.appendBody(nil)
		change(b)
		if _, err := parseCheckBody(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckSealOpen(t *testing.T) {
	secret := [32]byte{42}
	caller, callee := newCheckKeys(secret, true), newCheckKeys(secret, false)
	if caller.inTag != callee.outTag || caller.outTag != callee.inTag || caller.inTag == caller.outTag {
		t.Fatalf("tags %x %x and %x %x", caller.inTag, caller.outTag, callee.inTag, callee.outTag)
	}
	want := check{typ: pong, flags: flagRelayed, counter: 7, txid: 8, observed: netip.MustParseAddrPort("192.0.2.1:4000")}
	one, two := caller.seal(nil, want), caller.seal(nil, want)
	if len(one) != CheckSize {
		t.Errorf("%d bytes, want %d", len(one), CheckSize)
	}
	if bytes.Equal(one, two) {
		t.Errorf("two seals of one check are equal: the nonce repeats")
	}
	if got, err := callee.open(one); err != nil || got != want {
		t.Errorf("opened %+v, %v", got, err)
	}
	if _, err := caller.open(one); !errors.Is(err, ErrForged) {
		t.Errorf("our own check, reflected: %v", err)
	}
	reflected := append([]byte(nil), one...)
	copy(reflected[1:], caller.inTag[:])
	if _, err := caller.open(reflected); !errors.Is(err, ErrForged) {
		t.Errorf("our own check, reflected under the right tag: %v", err)
	}
	if tag, ok := CheckTag(one); !ok || tag != callee.inTag {
		t.Errorf("CheckTag %x %v", tag, ok)
	}
}

func TestReplayWindow(t *testing.T) {
	type step struct {
		n    uint64
		want bool
	}
	for name, steps := range map[string][]step{
		"zero is never new":   {{0, false}, {1, true}, {0, false}},
		"twice":               {{1, true}, {1, false}},
		"out of order":        {{5, true}, {3, true}, {4, true}, {3, false}, {5, false}, {1, true}},
		"edge of the window":  {{windowSize + 1, true}, {1, false}, {2, true}, {2, false}},
		"far jump":            {{1, true}, {1 << 40, true}, {1<<40 - windowSize, false}, {1<<40 - windowSize + 1, true}, {1, false}},
		"jump by one window":  {{3, true}, {windowSize + 3, true}, {3, false}, {4, true}, {windowSize + 3, false}},
		"the last there is":   {{1<<64 - 1, true}, {1<<64 - 1, false}, {1<<64 - 2, true}, {1, false}},
		"up to the last":      {{1<<64 - 6, true}, {1<<64 - 1, true}, {1<<64 - 3, true}, {1<<64 - 6, false}},
		"slots are cleared":   {{10, true}, {windowSize + 9, true}, {windowSize + 10, true}, {10, false}},
		"old ones after jump": {{100, true}, {200, true}, {100, false}, {150, true}, {150, false}},
	} {
		var w replayWindow
		for i, s := range steps {
			if got := w.accept(s.n); got != s.want {
				t.Errorf("%s: step %d: accept(%d) = %v", name, i, s.n, got)
			}
		}
	}
}

// Against a map that remembers everything.
func FuzzReplayWindow(f *testing.F) {
	f.Add([]byte{1, 2, 3, 3, 200, 1})
	f.Add([]byte{255, 255, 1, 0, 255, 1, 254})
	f.Fuzz(func(t *testing.T, jumps []byte) {
		var w replayWindow
		seen, at, top := map[uint64]bool{}, uint64(1), uint64(0)
		for i, j := range jumps {
			if i%3 == 2 && at > uint64(j)*9 { // back
				at -= uint64(j) * 9
			} else {
				at += uint64(j) * 8
			}
			want := at != 0 && !seen[at] && (at > top || top-at < windowSize)
			if got := w.accept(at); got != want {
				t.Fatalf("step %d: accept(%d) = %v with top %d", i, at, got, top)
			}
			if want {
				seen[at], top = true, max(top, at)
			}
		}
	})
}

// What parses encodes to the same bytes; what does not open changes nothing and never panics.
func FuzzCheck(f *testing.F) {
	for _, tt := range checkBodies {
		b, _ := hex.DecodeString(tt.hex)
		f.Add(b)
		keys := newCheckKeys([32]byte{}, true)
		f.Add(keys.seal(nil, tt.check))
	}
	keys := newCheckKeys([32]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCheckBody(b); err == nil {
			if again := c.appendBody(nil); !bytes.Equal(again, b) {
				t.Fatalf("%x encodes to %x", b, again)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v", err)
		}
		if c, err := keys.open(b); err == nil && c.typ != ping && c.typ != pong {
			t.Fatalf("opened %+v", c)
		}
	})
}

func BenchmarkCheckSeal(b *testing.B) {
	keys := newCheckKeys([32]byte{}, true)
	buf := make([]byte, 0, CheckSize)
	b.ReportAllocs()
	for b.Loop() {
		keys.seal(buf, check{typ: ping, counter: 1, txid: 2})
	}
}

func BenchmarkCheckOpen(b *testing.B) {
	caller, callee := newCheckKeys([32]byte{}, true), newCheckKeys([32]byte{}, false)
	packet := caller.seal(nil, check{typ: ping, counter: 1, txid: 2})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := callee.open(packet); err != nil {
			b.Fatal(err)
		}
	}
}

// A flood of forged checks that carry the right tag: what refusing one costs.
func BenchmarkCheckForged(b *testing.B) {
	caller, callee := newCheckKeys([32]byte{}, true), newCheckKeys([32]byte{}, false)
	packet := caller.seal(nil, check{typ: ping, counter: 1, txid: 2})
	packet[CheckSize-1] ^= 1
	b.ReportAllocs()
	for b.Loop() {
		if _, err := callee.open(packet); err == nil {
			b.Fatal("a forgery was accepted")
		}
	}
}
