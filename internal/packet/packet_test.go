package packet

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// The first bytes by RFC 9443 section 2:
//
//	[0..3] STUN, [20..63] DTLS, [64..79] TURN channel or QUIC, [80..127] QUIC,
//	[128..191] RTP or RTCP or QUIC, [192..255] QUIC
var classifyTable = []struct {
	name string
	hex  string
	want Class
}{
	{"empty", "", Unknown},
	{"Binding request", "000100002112a442" + strings.Repeat("00", 12), STUN},
	{"Binding response with an attribute", "0101000c2112a442" + strings.Repeat("00", 24), STUN},
	{"Data indication", "001700002112a442" + strings.Repeat("00", 12), STUN},
	{"largest STUN type", "3eef00002112a442" + strings.Repeat("00", 12), Unknown}, // RFC 7983 takes the first byte 0 to 3 only
	{"STUN type 0x03ff", "03ff00002112a442" + strings.Repeat("00", 12), STUN},
	{"STUN without the cookie, RFC 3489", "0001000011111111" + strings.Repeat("00", 12), Unknown},
	{"STUN of 19 bytes", "000100002112a442" + strings.Repeat("00", 11), Unknown},
	{"one zero", "00", Unknown},
	{"ZRTP", "10" + strings.Repeat("00", 30), Unknown},
	{"DTLS", "16fefd" + strings.Repeat("00", 30), Unknown},
	{"check", "21" + strings.Repeat("00", 60), Check},
	{"check of one byte", "21", Check},
	{"between DTLS and channels", "3f" + strings.Repeat("00", 60), Unknown},

	{"channel, nothing inside", "40000000", ChannelData},
	{"channel, no padding", "4000000461626364", ChannelData},
	{"channel, 1 byte and no padding", "4000000161", ChannelData},
	{"channel, 1 byte and 3 of padding", "4000000161000000", ChannelData},
	{"channel, 1 byte and 4 of padding", "400000016100000000", Unknown},
	{"channel, a byte missing", "40000002ff", Unknown},
	{"largest channel of RFC 8656", "4fff000161", ChannelData},
	{"channel of RFC 5766, too much behind it", "5000000161" + strings.Repeat("00", 16), QUIC},
	{"channel header cut", "400000", Unknown},
	{"channel of RFC 5766", "50000004" + "61626364", ChannelData},
	{"largest channel of RFC 5766", "7fff000161", ChannelData},
	{"channel of a large packet", "400104b0" + strings.Repeat("ab", 1200), ChannelData},

	{"QUIC short header", "41aaff" + strings.Repeat("bb", 30), QUIC},
	{"QUIC short header, small spin", "7faaff" + strings.Repeat("bb", 30), QUIC},
	{"smallest stateless reset", "50" + strings.Repeat("bb", 20), QUIC},
	{"too small for a stateless reset", "50" + strings.Repeat("bb", 19), Unknown},
	{"QUIC Initial", "c0000000010899ff" + strings.Repeat("00", 1192), QUIC},
	{"QUIC version negotiation without the fixed bit", "80000000000899ff", QUIC},
	{"QUIC version negotiation with it", "ff000000000899ff", QUIC},
}

func TestClassify(t *testing.T) {
	for _, test := range classifyTable {
		b, err := hex.DecodeString(test.hex)
		if err != nil {
			t.Fatal(test.name, err)
		}
		if got := Classify(b); got != test.want {
			t.Errorf("%s (%.16s…) is of class %d, want %d", test.name, test.hex, got, test.want)
		}
	}
}

// Every first byte has its class, whatever stands behind it.
func TestClassifyByFirstByte(t *testing.T) {
	for first := range 256 {
		b := bytes.Repeat([]byte{0xee}, 60)
		b[0] = byte(first)
		want := Unknown
		switch {
		case b[0] == CheckByte:
			want = Check
		case b[0] >= 0x40:
			want = QUIC
		}
		if got := Classify(b); got != want {
			t.Errorf("first byte %#02x is of class %d, want %d", first, got, want)
		}
	}
}

// shortHeader draws a packet with a short header (RFC 9000 section 17.3.1) to
// one of our connection IDs: everything behind the ID is up to the sender.
func shortHeader(first byte, id [ConnectionIDSize]byte, rest []byte) []byte {
	return append(append([]byte{first}, id[:]...), rest...)
}

// "The length field fits" must never hold for QUIC that is meant for us, so
// every first byte of a channel is tried with every size that a datagram of
// ours has.
func TestShortHeaderIsNeverChannelData(t *testing.T) {
	rest := bytes.Repeat([]byte{0}, 1500)
	for range 50 {
		id := NewConnectionID()
		for first := 0x40; first <= 0x4f; first++ {
			for size := 0; size <= len(rest); size++ {
				b := shortHeader(byte(first), id, rest[:size])
				if got := Classify(b); got == ChannelData || len(b) >= minQUICSize && got != QUIC {
					t.Fatalf("short header %x of %d bytes is of class %d", b[:9], len(b), got)
				}
			}
		}
	}
}

func TestNewConnectionID(t *testing.T) {
	seen := map[[ConnectionIDSize]byte]bool{}
	for range 1000 {
		id := NewConnectionID()
		if id[1] != 0xff {
			t.Fatalf("second byte of %x is not ff", id)
		}
		if seen[id] {
			t.Fatalf("%x came twice", id)
		}
		seen[id] = true
	}
}

func TestClassifyAllocatesNothing(t *testing.T) {
	b := bytes.Repeat([]byte{0x40}, 1200)
	if n := testing.AllocsPerRun(100, func() { Classify(b) }); n != 0 {
		t.Errorf("%v allocations a packet, want 0", n)
	}
}

func FuzzClassify(f *testing.F) {
	for _, test := range classifyTable {
		b, err := hex.DecodeString(test.hex)
		if err != nil {
			f.Fatal(test.name, err)
		}
		f.Add(b)
	}
	id := NewConnectionID()
	f.Add(shortHeader(0x40, id, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := Classify(b)
		if got != Classify(bytes.Clone(b)) || got > QUIC {
			t.Errorf("%x is of class %d", b, got)
		}
		if len(b) > 1+ConnectionIDSize && len(b) < 0xff00 && b[2] == 0xff && got == ChannelData {
			t.Errorf("%x has a connection ID of ours and is channel data", b)
		}
		if got == ChannelData && (b[0]&0xc0 != 0x40 || len(b) < 4) {
			t.Errorf("%x is channel data", b)
		}
		if got == STUN && (len(b) < 20 || b[0] > 3) {
			t.Errorf("%x is STUN", b)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	packets := [][]byte{
		bytes.Repeat([]byte{0x41}, 1200),
		append([]byte{0x40, 0, 0x04, 0xb0}, make([]byte, 1200)...),
		append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
		append([]byte{CheckByte}, make([]byte, 60)...),
	}
	for i := 0; b.Loop(); i++ {
		Classify(packets[i%len(packets)])
	}
}
