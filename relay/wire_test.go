package relay

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatalf("hex: %v", err)
	}
	return b
}

// TestRFC5769 reads and makes the parts of RFC 5769's vectors that this package handles itself or
// through pion/stun: addresses, long-term key, integrity, fingerprint.
func TestRFC5769(t *testing.T) {
	for _, tt := range []struct{ addr, wire, attr string }{
		{"192.0.2.1:32853", `0101003c2112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
			002000080001a147e112a643 000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96`,
			"002000080001a147e112a643"},
		{"[2001:db8:1234:5678:11:2233:4455:6677]:32853", `010100482112a442b7e7a701bc34d686fa87dfae
			8022000b7465737420766563746f7220 002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
			00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c`,
			"002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"},
	} {
		m, err := decode(unhex(t, tt.wire))
		if err != nil {
			t.Fatalf("%s: %v", tt.addr, err)
		}
		want := netip.MustParseAddrPort(tt.addr)
		if got, ok := readXORAddress(m, stun.AttrXORMappedAddress); !ok || got != want {
			t.Errorf("read %v, want %v", got, want)
		}
		if got := appendXORAddress(nil, stun.AttrXORMappedAddress, want, m.TransactionID); !bytes.Equal(got, unhex(t, tt.attr)) {
			t.Errorf("%s: made %x", tt.addr, got)
		}
		if err := stun.NewShortTermIntegrity("VOkJxbRl1RmTxUk/WvJxBt").Check(m); err != nil {
			t.Errorf("%s: integrity: %v", tt.addr, err)
		}
		if err := stun.Fingerprint.Check(m); err != nil {
			t.Errorf("%s: fingerprint: %v", tt.addr, err)
		}
	}
}

// TestRFC5769LongTerm makes RFC 5769 §2.4, "Sample Request with Long-Term Authentication".
func TestRFC5769LongTerm(t *testing.T) {
	wire := unhex(t, `000100602112a44278ad3433c6ad72c029da412e 00060012e3839ee38388e383aae38383e382afe382b90000
		0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341
		0014000b6578616d706c652e6f726700 00080014f67024656dd64a3e02b8e0712e85c9a28ca89666`)
	const user, realm, nonce = "\u30DE\u30C8\u30EA\u30C3\u30AF\u30B9", "example.org", "f//499k954d6OL34oL9FSTvy64sA"
	m, err := decode(wire)
	if err != nil {
		t.Fatal(err)
	}
	c := credentials{username: user, password: "TheMatrIX"}
	if !c.learn(m) || c.realm != realm || c.nonce != nonce {
		t.Errorf("learned %q %q", c.realm, c.nonce)
	}
	if err := c.key.Check(m); err != nil {
		t.Errorf("integrity: %v", err)
	}
	made, err := stun.Build(stun.NewTransactionIDSetter(m.TransactionID), stun.BindingRequest,
		stun.NewUsername(user), stun.NewNonce(nonce), stun.NewRealm(realm), c.key)
	if err != nil || !bytes.Equal(made.Raw, wire) {
		t.Errorf("made %x (%v)", made.Raw, err)
	}
}

// TestMessages: what the client sends passes the filter and reads back.
func TestMessages(t *testing.T) {
	id := [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, peer := range []string{"8.8.8.8:53", "[2a00::1]:65535"} {
		for n := range 5 {
			payload, want := []byte("abcd")[:n], netip.MustParseAddrPort(peer)
			m, err := decode(appendSend(nil, id, want, payload))
			if err != nil {
				t.Fatalf("%s: %v", peer, err)
			}
			got, ok := readXORAddress(m, stun.AttrXORPeerAddress)
			data, err := m.Get(stun.AttrData)
			if m.Type != stun.NewType(stun.MethodSend, stun.ClassIndication) || !ok || got != want || err != nil || !bytes.Equal(data, payload) {
				t.Errorf("%v %v %q", m, got, data)
			}
			setter, err := stun.Build(stun.NewTransactionIDSetter(id), peerAttr(want))
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := readXORAddress(setter, stun.AttrXORPeerAddress); !ok || got != want {
				t.Errorf("as a setter: %v", got)
			}
		}
	}
}

// FuzzInbound: nothing a server sends makes the client panic, keep, or hand on more than it got.
func FuzzInbound(f *testing.F) {
	id := [12]byte{9}
	peer := netip.MustParseAddrPort("8.8.8.8:53")
	data, err := stun.Build(stun.NewTransactionIDSetter(id), stun.NewType(stun.MethodData, stun.ClassIndication),
		peerAttr(peer), stun.RawAttribute{Type: stun.AttrData, Value: []byte("hello")})
	if err != nil {
		f.Fatal(err)
	}
	answer, err := stun.Build(stun.NewTransactionIDSetter(id), stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.CodeStaleNonce)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data.Raw)
	f.Add(answer.Raw)
	f.Add(packet.AppendChannelData(nil, firstChannel, []byte("hello")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		received := 0
		a := &Allocation{peers: newPeers(), life: t.Context()}
		a.cfg = Config{Server: peer, Receive: func(p []byte, _ netip.AddrPort) { received += len(p) }}
		a.txs.pending = map[[12]byte]*transaction{id: {all: &a.txs, id: id, answer: make(chan *stun.Message, 1)}}
		if _, _, err := a.peers.claim(peer); err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(b)
		taken := a.Inbound(b, peer)
		if received > len(b) || received > 0 && !taken {
			t.Errorf("%d bytes handed on of %d, taken %v", received, len(b), taken)
		}
		if !bytes.Equal(b, before) {
			t.Error("the packet was changed")
		}
		select {
		case m := <-a.txs.pending[id].answer:
			_ = response(m)
			_ = a.auth.learn(m)
			_, _ = readLifetime(m)
			_, _ = readXORAddress(m, stun.AttrXORRelayedAddress)
		default:
		}
	})
}
