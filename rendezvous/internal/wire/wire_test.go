package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport-net/sallyport"
)

type appender interface{ Append([]byte) []byte }

var (
	peer = sallyport.PeerID{0: 0xa1, 31: 0xb2}
	when = time.UnixMilli(0x0102030405)
	v4   = netip.MustParseAddrPort("192.0.2.1:3478")
	v6   = netip.MustParseAddrPort("[2001:db8::1]:443")
)

const (
	hexPeer = "a1000000000000000000000000000000000000000000000000000000000000b2"
	hexWhen = "0000000102030405"
	hexV4   = "04 0d96 c0000201"
	hexV6   = "06 01bb 20010db8000000000000000000000001"
)

// table is every frame once or more: what it means and its bytes.
var table = []struct {
	name string
	msg  appender
	hex  string
}{
	{"hello", Hello{Flags: FlagCallable, Instance: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, Time: when},
		"01 0012 01 01 0102030405060708" + hexWhen},
	{"hello, yielding", Hello{Flags: FlagYield | FlagCallable, Time: when},
		"01 0012 01 03 0000000000000000" + hexWhen},
	{"hello of a volunteer", Hello{Flags: FlagVolunteer, Time: when, Volunteer: &Volunteer{
		Name: "n", Realm: "re", Secret: bytes.Repeat([]byte{0xee}, MinSecret), Addrs: []netip.AddrPort{v4, v6}}},
		"01 0043 01 04 0000000000000000" + hexWhen + "01 6e 02 7265 10 eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee 02" + hexV4 + hexV6},
	{"welcome", Welcome{Observed: v6, Time: when, STUN: []netip.AddrPort{v4}},
		"02 0023" + hexV6 + hexWhen + "01" + hexV4},
	{"welcome without STUN", Welcome{Observed: v4, Time: when}, "02 0010" + hexV4 + hexWhen + "00"},
	{"ping", Ping{Seq: 7}, "03 0028 00000007" + strings.Repeat("00", pingPadding)},
	{"pong", Pong{Seq: 7, Observed: v4, Time: when}, "04 0013 00000007" + hexV4 + hexWhen},
	{"listed", Listed{Addrs: []netip.AddrPort{v4}, Reason: "ok"}, "05 000b 01" + hexV4 + "02 6f6b"},
	{"not listed", Listed{Reason: "no"}, "05 0004 00 02 6e6f"},
	{"call", Call{Peer: peer, Offer: []byte{9, 8}}, "10 0022" + hexPeer + "0908"},
	{"message", Message{1, 2, 3}, "11 0003 010203"},
	{"end", End{Code: EndOffline}, "12 0002 01 00"},
	{"refusal", End{Code: EndRefused, Reason: "no"}, "12 0004 02 02 6e6f"},
	{"present", Present{peer}, "20 0020" + hexPeer},
	{"presence", Presence{true, false, true}, "21 0003 01 00 01"},
	{"relays request", RelaysRequest{}, "22 0000"},
	{"relays", Relays{{ID: peer, Name: "n", Realm: "r", Username: "u", Password: "p", TTL: 600 * time.Second, Addrs: []netip.AddrPort{v4}}},
		"23 0035 01" + hexPeer + "01 6e 01 72 01 75 01 70 00000258 01" + hexV4},
	{"no relays", Relays(nil), "23 0001 00"},
}

// parse reads any frame, as its type says.
func parse(kind Type, payload []byte) (appender, error) {
	switch kind {
	case TypeHello:
		return result(ParseHello(payload))
	case TypeWelcome:
		return result(ParseWelcome(payload))
	case TypePing:
		return result(ParsePing(payload))
	case TypePong:
		return result(ParsePong(payload))
	case TypeListed:
		return result(ParseListed(payload))
	case TypeCall:
		return result(ParseCall(payload))
	case TypeMessage:
		return result(ParseMessage(payload))
	case TypeEnd:
		return result(ParseEnd(payload))
	case TypePresent:
		return result(ParsePresent(payload))
	case TypePresence:
		return result(ParsePresence(payload))
	case TypeRelaysRq:
		return RelaysRequest{}, ParseRelaysRequest(payload)
	case TypeRelays:
		return result(ParseRelays(payload))
	}
	return nil, errors.New("unknown type")
}

func result[M appender](m M, err error) (appender, error) { return m, err }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTableBothWays(t *testing.T) {
	for _, tt := range table {
		t.Run(tt.name, func(t *testing.T) {
			want := unhex(t, tt.hex)
			if got := tt.msg.Append(nil); !bytes.Equal(got, want) {
				t.Fatalf("encodes to\n%x, want\n%x", got, want)
			}
			kind, payload, err := NewReader(bytes.NewReader(want)).Next()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := parse(kind, payload); err != nil || !reflect.DeepEqual(got, tt.msg) {
				t.Errorf("parses to\n%+v, %v, want\n%+v", got, err, tt.msg)
			}
		})
	}
}

// open frames end where their payload does; cutting them gives a valid one.
func open(kind Type) bool {
	return kind == TypeCall || kind == TypeMessage || kind == TypePresence
}

func TestEveryTruncationFails(t *testing.T) {
	for _, tt := range table {
		whole := unhex(t, tt.hex)
		for n := range whole {
			_, _, err := NewReader(bytes.NewReader(whole[:n])).Next()
			if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[n == 0]; err != want {
				t.Errorf("%s: stream cut at %d: %v, want %v", tt.name, n, err, want)
			}
		}
		kind, payload := Type(whole[0]), whole[headerSize:]
		for n := range payload {
			if _, err := parse(kind, payload[:n]); err == nil && !open(kind) {
				t.Errorf("%s: payload cut at %d parses", tt.name, n)
			}
		}
		if _, err := parse(kind, append(bytes.Clone(payload), 0)); err == nil && !open(kind) {
			t.Errorf("%s: parses with a byte too many", tt.name)
		}
	}
}

func TestMalformed(t *testing.T) {
	relay := "23 0035 01" + hexPeer + "01 ff 01 72 01 75 01 70 00000258 01" + hexV4
	for name, text := range map[string]string{
		"unknown version":            "01 0012 02 01 0102030405060708" + hexWhen,
		"unknown flag":               "01 0012 01 81 0102030405060708" + hexWhen,
		"volunteer with nothing":     "01 0012 01 04 0102030405060708" + hexWhen,
		"volunteer, short secret":    "01 001e 01 04 0000000000000000" + hexWhen + "00 00 01 ee 01" + hexV4,
		"volunteer, no address":      "01 0026 01 04 0000000000000000" + hexWhen + "00 00 10 eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee 00",
		"unknown family":             "04 0013 00000007 05 0d96 c0000201" + hexWhen,
		"IPv4 in IPv6":               "04 001f 00000007 06 0d96 00000000000000000000ffffc0000201" + hexWhen,
		"padding that is not zero":   "03 0028 00000007" + strings.Repeat("00", pingPadding-1) + "01",
		"call without an offer":      "10 0020" + hexPeer,
		"empty message":              "11 0000",
		"end without a code":         "12 0002 00 00",
		"end with an unknown code":   "12 0002 08 00",
		"reason that is not UTF-8":   "12 0003 02 01 ff",
		"reason too long":            "12 0043 02 41" + strings.Repeat("61", 65),
		"present without IDs":        "20 0000",
		"part of an ID":              "20 0021" + hexPeer + "00",
		"presence that is neither":   "21 0001 02",
		"name that is not UTF-8":     relay,
		"more relays than are there": "23 0001 01",
		"too many relays":            "23 0001 07",
		"too many addresses":         "05 0001 09",
		"request with a body":        "22 0001 00",
	} {
		kind, payload, err := NewReader(bytes.NewReader(unhex(t, text))).Next()
		if err != nil {
			t.Errorf("%s: the frame itself is broken: %v", name, err)
			continue
		}
		if got, err := parse(kind, payload); err == nil {
			t.Errorf("%s: parses to %+v", name, got)
		}
	}
}

func TestTooLongFrameIsNotRead(t *testing.T) {
	_, _, err := NewReader(bytes.NewReader(unhex(t, "11 1021"))).Next()
	if err != ErrTooLong {
		t.Errorf("%v", err)
	}
	frame := append(unhex(t, "11 1020"), make([]byte, MaxPayload)...)
	if _, payload, err := NewReader(bytes.NewReader(frame)).Next(); err != nil || len(payload) != MaxPayload {
		t.Errorf("the longest frame: %d bytes, %v", len(payload), err)
	}
	if _, err := ParseMessage(make([]byte, MaxMessage+1)); err == nil {
		t.Error("a message above MaxMessage parses")
	}
	if _, err := ParseCall(make([]byte, 32+MaxMessage+1)); err == nil {
		t.Error("an offer above MaxMessage parses")
	}
}

// The fullest answers fit a frame.
func TestFullListsFit(t *testing.T) {
	var full Relays
	for range MaxRelays {
		r := Relay{ID: peer, Name: strings.Repeat("n", MaxName), Realm: strings.Repeat("r", MaxRealm),
			Username: strings.Repeat("u", MaxUser), Password: strings.Repeat("p", MaxUser)}
		for range MaxAddrs {
			r.Addrs = append(r.Addrs, v6)
		}
		full = append(full, r)
	}
	for _, m := range []appender{full, Present(make([]sallyport.PeerID, MaxIDs)), Presence(make([]bool, MaxIDs))} {
		kind, payload, err := NewReader(bytes.NewReader(m.Append(nil))).Next()
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if got, err := parse(kind, payload); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: does not come back: %v", m, err)
		}
	}
}

// Texts are cut at the end of a rune, so that what is cut still parses.
func TestTextsAreCut(t *testing.T) {
	b := End{Code: EndRefused, Reason: strings.Repeat("é", MaxReason)}.Append(nil)
	end, err := ParseEnd(b[headerSize:])
	if err != nil || end.Reason != strings.Repeat("é", MaxReason/2) {
		t.Errorf("%q, %v", end.Reason, err)
	}
	b = End{Code: EndRefused, Reason: "\xff" + strings.Repeat("a", MaxReason-2) + "é"}.Append(nil)
	if end, err := ParseEnd(b[headerSize:]); err != nil || end.Reason != strings.Repeat("a", MaxReason-2) {
		t.Errorf("%q, %v", end.Reason, err)
	}
}

// interrupted fails every other read, as a deadline does.
type interrupted struct {
	r   io.Reader
	now bool
}

func (i *interrupted) Read(b []byte) (int, error) {
	if i.now = !i.now; i.now {
		return 0, errors.New("interrupted")
	}
	return i.r.Read(b[:1])
}

func TestReaderGoesOnAfterAnError(t *testing.T) {
	var stream []byte
	for _, tt := range table {
		stream = tt.msg.Append(stream)
	}
	r := NewReader(&interrupted{r: iotest.OneByteReader(bytes.NewReader(stream))})
	for _, tt := range table {
		for {
			kind, payload, err := r.Next()
			if err != nil && err.Error() == "interrupted" {
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if got, err := parse(kind, payload); err != nil || !reflect.DeepEqual(got, tt.msg) {
				t.Fatalf("%s: %+v, %v", tt.name, got, err)
			}
			break
		}
	}
}

// What parses encodes to the same bytes.
func FuzzFrames(f *testing.F) {
	if len(table) == 0 {
		f.Fatal("no seeds")
	}
	for _, tt := range table {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, payload, err := NewReader(bytes.NewReader(b)).Next()
		if err != nil {
			return
		}
		msg, err := parse(kind, payload)
		if err != nil {
			return
		}
		whole := b[:headerSize+len(payload)]
		if got := msg.Append(nil); !bytes.Equal(got, whole) {
			t.Errorf("%T: %x encodes to %x", msg, whole, got)
		}
	})
}
