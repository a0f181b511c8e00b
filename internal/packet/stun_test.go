package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// rfc5769 are the vectors of RFC 5769 §2.1 to §2.4.
var rfc5769 = map[string]string{
	"request": `000100582112a442b7e7a701bc34d686fa87dfae 802200105354554e207465737420636c69656e74
		002400046e0001ff 80290008932ff9b151263b36 000600096576746a3a68367659202020
		000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2 80280004e57a3bcf`,
	"IPv4 response": `0101003c2112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
		002000080001a147e112a643 000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96`,
	"IPv6 response": `010100482112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
		002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
		00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c`,
	"long-term request": `000100602112a44278ad3433c6ad72c029da412e
		00060012e3839ee38388e383aae38383e382afe382b90000
		0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341
		0014000b6578616d706c652e6f726700 00080014f67024656dd64a3e02b8e0712e85c9a28ca89666`,
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatalf("hex: %v", err)
	}
	return b
}

// TestValidSTUNVectors: the filter passes RFC 5769's messages and none of their truncations.
func TestValidSTUNVectors(t *testing.T) {
	for name, text := range rfc5769 {
		b := unhex(t, text)
		if err := packet.ValidSTUN(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range b {
			if packet.ValidSTUN(b[:n]) == nil {
				t.Errorf("%s: passes when cut to %d of %d bytes", name, n, len(b))
			}
		}
		if packet.ValidSTUN(append(b, 0, 0, 0, 0)) == nil {
			t.Errorf("%s: passes with four bytes behind it", name)
		}
	}
}

// message frames attributes, given in hex, as a Binding request.
func message(t testing.TB, attrs string) []byte {
	body := unhex(t, attrs)
	b := append(unhex(t, "00010000 2112a442 000102030405060708090a0b"), body...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(body)))
	return b
}

func TestValidSTUN(t *testing.T) {
	integrity := "00080014" + strings.Repeat("aa", 20)
	tests := []struct {
		name, attrs string
		want        error
	}{
		{"no attribute", "", nil},
		{"unknown attribute", "ffff0003 01020300", nil},
		{"padding counts", "ffff0003 010203", packet.ErrSTUNLength},
		{"attribute header cut off", "ffff0000 0000", packet.ErrSTUNLength},
		{"value past the end", "ffff0008 00000000", packet.ErrSTUNAttribute},
		{"padded value past the end", "ffff0005 00000000", packet.ErrSTUNAttribute},
		{"longest length", "ffffffff", packet.ErrSTUNAttribute},
		{"IPv4 peer", "00120008 0001 1234 01020304", nil},
		{"IPv6 peer", "00120014 0002 1234" + strings.Repeat("00", 16), nil},
		{"peer without an address", "00120004 00011234", packet.ErrSTUNAttribute},
		{"peer of no length", "00120000", packet.ErrSTUNAttribute},
		{"IPv6 family with an IPv4 length", "00120008 0002 1234 01020304", packet.ErrSTUNAttribute},
		{"IPv4 family with an IPv6 length", "00120014 0001 1234" + strings.Repeat("00", 16), packet.ErrSTUNAttribute},
		{"family 3", "00120008 0003 1234 01020304", packet.ErrSTUNAttribute},
		{"old mapped address", "80200008 0001 1234 01020304", nil},
		{"other address too short", "802c0004 00011234", packet.ErrSTUNAttribute},
		{"lifetime", "000d0004 00000258", nil},
		{"short lifetime", "000d0002 02580000", packet.ErrSTUNAttribute},
		{"even port", "00180001 80000000", nil},
		{"error code without a code", "00090002 00000000", packet.ErrSTUNAttribute},
		{"odd unknown attributes", "000a0003 00010000", packet.ErrSTUNAttribute},
		{"empty username", "00060000", packet.ErrSTUNAttribute},
		{"nonce of 764 bytes", "001502fc" + strings.Repeat("30", 764), packet.ErrSTUNAttribute},
		{"nonce of 763 bytes", "001502fb" + strings.Repeat("30", 764), nil},
		{"integrity", integrity, nil},
		{"integrity of 16 bytes", "00080010" + strings.Repeat("aa", 16), packet.ErrSTUNAttribute},
		{"attribute after the integrity", integrity + "000d0004 00000258", packet.ErrSTUNOrder},
		{"second integrity", integrity + integrity, packet.ErrSTUNOrder},
		{"integrity after SHA-256", "001c0010" + strings.Repeat("aa", 16) + integrity, packet.ErrSTUNOrder},
		{"wrong fingerprint", "80280004 00000000", packet.ErrSTUNFingerprint},
		{"64 attributes", strings.Repeat("ffff0000", 64), nil},
		{"65 attributes", strings.Repeat("ffff0000", 65), packet.ErrSTUNAttribute},
	}
	for _, tt := range tests {
		if err := packet.ValidSTUN(message(t, tt.attrs)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestValidSTUNFingerprint: nothing may follow FINGERPRINT, and a right one passes.
func TestValidSTUNFingerprint(t *testing.T) {
	b := message(t, "000d0004 00000258 80280004 00000000")
	sum := crc32.ChecksumIEEE(b[:len(b)-8]) ^ 0x5354554e
	binary.BigEndian.PutUint32(b[len(b)-4:], sum)
	if err := packet.ValidSTUN(b); err != nil {
		t.Errorf("right fingerprint: %v", err)
	}
	long := message(t, "80280004 00000000 ffff0000")
	binary.BigEndian.PutUint32(long[24:], crc32.ChecksumIEEE(long[:20])^0x5354554e)
	if err := packet.ValidSTUN(long); !errors.Is(err, packet.ErrSTUNOrder) {
		t.Errorf("attribute after the fingerprint: %v", err)
	}
}

func TestValidSTUNHeader(t *testing.T) {
	for name, text := range map[string]string{
		"empty":            "",
		"cut header":       "000100002112a442000102030405060708090a",
		"wrong cookie":     "000100002112a443000102030405060708090a0b",
		"first bit set":    "800100002112a442000102030405060708090a0b",
		"second bit set":   "400100002112a442000102030405060708090a0b",
		"length too long":  "000100042112a442000102030405060708090a0b",
		"length not of 4s": "000100012112a442000102030405060708090a0b00",
	} {
		if packet.ValidSTUN(unhex(t, text)) == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestValidSTUNAllocs(t *testing.T) {
	b := unhex(t, rfc5769["request"])
	if n := testing.AllocsPerRun(100, func() { _ = packet.ValidSTUN(b) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestChannelData(t *testing.T) {
	tests := []struct {
		name, wire string
		channel    uint16
		payload    string
	}{
		{"plain", "40010003 616263", 0x4001, "abc"},
		{"empty", "4fff0000", 0x4fff, ""},
		{"RFC 5766's last channel", "7fff0001 61", 0x7fff, "a"},
	}
	for _, tt := range tests {
		wire := unhex(t, tt.wire)
		channel, payload, err := packet.ParseChannelData(wire)
		if err != nil || channel != tt.channel || string(payload) != tt.payload {
			t.Errorf("%s: %#x %q %v", tt.name, channel, payload, err)
		}
		if got := packet.AppendChannelData(nil, tt.channel, []byte(tt.payload)); !bytes.Equal(got, wire) {
			t.Errorf("%s: made %x", tt.name, got)
		}
		for n := range wire {
			if _, _, err := packet.ParseChannelData(wire[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes it parses", tt.name, n)
			}
		}
	}
	for name, text := range map[string]string{
		"STUN": "00010000", "below the channels": "3fff0000", "above them": "80000000", "four bytes too many": "40000001 6100000000",
	} {
		if _, _, err := packet.ParseChannelData(unhex(t, text)); !errors.Is(err, packet.ErrChannelData) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, payload, err := packet.ParseChannelData(unhex(t, "40000001 61000000")); err != nil || string(payload) != "a" {
		t.Errorf("padded: %q %v", payload, err)
	}
}

// FuzzValidSTUN: what the filter passes, pion's decoder takes with every getter of every attribute,
// and nothing panics.
func FuzzValidSTUN(f *testing.F) {
	for _, text := range rfc5769 {
		f.Add(unhex(f, text))
	}
	for _, attrs := range []string{
		"00120008 0001 1234 01020304", "80200008 0001 1234 01020304", "00120014 0002 1234" + strings.Repeat("00", 16),
		"00090004 00000401", "000a0004 00010002", "00080014" + strings.Repeat("aa", 20), "ffff0003 01020300",
	} {
		f.Add(message(f, attrs))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if packet.ValidSTUN(b) != nil {
			return
		}
		m := new(stun.Message)
		if err := stun.Decode(b, m); err != nil {
			t.Fatalf("the decoder refuses what the filter passed: %v", err)
		}
		getters := []stun.Getter{
			new(stun.XORMappedAddress), new(stun.MappedAddress), new(stun.AlternateServer), new(stun.OtherAddress),
			new(stun.ResponseOrigin), new(stun.ErrorCodeAttribute), new(stun.UnknownAttributes), new(stun.Username),
			new(stun.Realm), new(stun.Nonce), new(stun.Software),
		}
		for _, g := range getters {
			_ = g.GetFrom(m)
		}
		for _, typ := range []stun.AttrType{stun.AttrXORPeerAddress, stun.AttrXORRelayedAddress, stun.AttrXORMappedAddress} {
			_ = m.ForEach(typ, func(m *stun.Message) error { return new(stun.XORMappedAddress).GetFromAs(m, typ) })
		}
		_ = m.String()
		_ = stun.NewLongTermIntegrity("user", "realm", "password").Check(m)
		_ = stun.Fingerprint.Check(m)
	})
}
