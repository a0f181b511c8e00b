package sallyport

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

const (
	aliceHex = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
	bobHex   = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
	eveHex   = "ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d1"
)

// ticketText wraps a payload as [Ticket.String] does, whatever it says.
func ticketText(payload []byte) string {
	sum := sha256.Sum256(payload)
	return ticketPrefix + textEncoding.EncodeToString(append(bytes.Clone(payload), sum[:ticketChecksum]...))
}

func repeat(s string, n int) string { return strings.Repeat(s, n) }

func ticketTable(t testing.TB) map[string]struct {
	ticket Ticket
	hex    string // of the payload
} {
	alice, bob, eve := testIdentity(t, 1).PeerID(), testIdentity(t, 2).PeerID(), testIdentity(t, 3).PeerID()
	node := func(id PeerID, host string, port uint16) NodeURL { return NodeURL{ID: id, Host: host, Port: port} }
	var eight []NodeURL
	for range maxTicketNodes {
		eight = append(eight, node(bob, "a", 1))
	}
	return map[string]struct {
		ticket Ticket
		hex    string
	}{
		"peer alone": {Ticket{Peer: alice}, aliceHex + "00" + "00"},
		"a name":     {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, "node.lan", 3478)}}, aliceHex + "01" + bobHex + "0d96" + "08" + "6e6f64652e6c616e" + "00"},
		"IPv4":       {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, "192.0.2.1", 443)}}, aliceHex + "01" + bobHex + "01bb" + "fe" + "c0000201" + "00"},
		"IPv6":       {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, "2001:db8::1", 443)}}, aliceHex + "01" + bobHex + "01bb" + "ff" + "20010db8000000000000000000000001" + "00"},
		"IPv6 with a zone": {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, "fe80::1%eth0", 443)}},
			aliceHex + "01" + bobHex + "01bb" + "0c" + hex.EncodeToString([]byte("fe80::1%eth0")) + "00"},
		"longest name": {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, repeat("a", 253), 1)}}, aliceHex + "01" + bobHex + "0001" + "fd" + repeat("61", 253) + "00"},
		"invitation":   {Ticket{Peer: alice, Invite: []byte{0xde, 0xad}}, aliceHex + "00" + "02dead"},
		"longest invitation": {Ticket{Peer: alice, Invite: bytes.Repeat([]byte{7}, 32)},
			aliceHex + "00" + "20" + repeat("07", 32)},
		"two nodes and an invitation": {Ticket{Peer: alice, Nodes: []NodeURL{node(bob, "a", 1), node(eve, "192.0.2.1", 2)}, Invite: []byte{1}},
			aliceHex + "02" + bobHex + "0001" + "0161" + eveHex + "0002" + "fec0000201" + "0101"},
		"eight nodes": {Ticket{Peer: alice, Nodes: eight}, aliceHex + "08" + repeat(bobHex+"0001"+"0161", 8) + "00"},
	}
}

func TestTicketBothWays(t *testing.T) {
	for name, test := range ticketTable(t) {
		t.Run(name, func(t *testing.T) {
			want := ticketText(unhex(t, test.hex))
			if got := test.ticket.String(); got != want {
				t.Errorf("text is\n%s, want\n%s", got, want)
			}
			for _, s := range []string{want, strings.ToUpper(want)} {
				if got, err := ParseTicket(s); err != nil || !reflect.DeepEqual(got, test.ticket) {
					t.Errorf("ParseTicket = %+v, %v; want %+v", got, err, test.ticket)
				}
			}
		})
	}
}

// The text form is a promise to everybody who printed one.
func TestTicketText(t *testing.T) {
	const want = "sally1rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oadajzo4hkq7ixl5lkgvdgyngh5tglrwfjdnhog6rf35qploh4tm4uag575qaaaiaqb7mvahaq"
	if got := ticketTable(t)["IPv4"].ticket.String(); got != want {
		t.Errorf("text is %s, want %s", got, want)
	}
}

func TestTruncatedTicket(t *testing.T) {
	for name, test := range ticketTable(t) {
		text := test.ticket.String()
		for n := range text {
			if got, err := ParseTicket(text[:n]); err == nil {
				t.Errorf("%s: its first %d characters parse to %+v", name, n, got)
			}
		}
		payload := unhex(t, test.hex) // with a checksum that fits, so that the reader itself is asked
		for n := range payload {
			got, err := ParseTicket(ticketText(payload[:n]))
			wantError(t, err, "ticket")
			if !reflect.DeepEqual(got, Ticket{}) {
				t.Errorf("%s: beside the error there is %+v", name, got)
			}
		}
	}
}

func TestParseTicketErrors(t *testing.T) {
	text := ticketTable(t)["two nodes and an invitation"].ticket.String()
	of := func(hex string) string { return ticketText(unhex(t, hex)) }
	node := func(host string) string { return of(aliceHex + "01" + bobHex + "0001" + host + "00") }
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", `ticket does not start with "sally1"`},
		{"peer ID", rfcPeerText, `ticket does not start with "sally1"`},
		{"node URL", "sally://" + rfcPeerText + "@host:1", `ticket does not start with "sally1"`},
		{"next version", "sally2" + text[6:], `ticket does not start with "sally1"`},
		{"prefix alone", "sally1", "ticket is cut short"},
		{"three bytes", "sally1aaaaa", "ticket is cut short"},
		{"checksum of nothing", of(""), "ticket is cut short"},
		{"one character", "sally1a", "ticket: length is not that of a whole number of bytes"},
		{"loose bits", "sally1ab", "ticket: last character has bits that must be zero"},
		{"digit 0", text[:20] + "0" + text[21:], `ticket: character '0' at position 21 cannot occur (a-z and 2-7 do)`},
		{"newline", text + "\n", `ticket: character '\n' at position`},
		{"Kelvin sign", text[:20] + "\u212a" + text[21:], "at position 21 cannot occur"},
		{"mistyped", text[:20] + string('a'+'b'-text[20]%2) + text[21:], "ticket"},
		{"too large", "sally1" + repeat("a", 4091), "ticket has 4097 characters, more than 4096"},
		{"nine nodes", of(aliceHex + "09" + repeat(bobHex+"0001"+"0161", 9) + "00"), "ticket names 9 nodes, more than 8"},
		{"long invitation", of(aliceHex + "00" + "21" + repeat("07", 33)), "ticket's invitation has 33 bytes, more than 32"},
		{"bytes behind", of(aliceHex + "00" + "00" + "0000"), "ticket has 2 bytes too many"},
		{"zero peer", of(repeat("00", 32) + "00" + "00"), "ticket: peer ID: not a valid key: point of small order"},
		{"zero node", of(aliceHex + "01" + repeat("00", 32) + "0001" + "0161" + "00"), "ticket: peer ID: not a valid key: point of small order"},
		{"port 0", of(aliceHex + "01" + bobHex + "0000" + "0161" + "00"), "ticket: node without a port"},
		{"no host", node("00"), `node's host "" is malformed`},
		{"space in the host", node("03612062"), `node's host "a b" is malformed`},
		{"control character in the host", node("011b"), `node's host "\x1b" is malformed`},
		{"IPv4 as a name", node("07" + hex.EncodeToString([]byte("1.2.3.4"))), `node's host "1.2.3.4" is malformed or not in its shortest form`},
		{"IPv4 mapped", node("ff" + repeat("00", 10) + "ffff" + "01020304"), "malformed or not in its shortest form"},
		{"zone in upper case", node("0c" + hex.EncodeToString([]byte("FE80::1%eth0"))), "malformed or not in its shortest form"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseTicket(test.text)
			wantError(t, err, test.want)
			if !reflect.DeepEqual(got, Ticket{}) {
				t.Errorf("beside the error there is %+v", got)
			}
		})
	}
}

func TestMistypedTicketNeverParses(t *testing.T) {
	text := ticketTable(t)["IPv4"].ticket.String()
	for i := range text {
		for _, c := range "abcdefghijklmnopqrstuvwxyz234567" {
			if s := text[:i] + string(c) + text[i+1:]; s != text {
				if got, err := ParseTicket(s); err == nil {
					t.Errorf("%s parses to %+v, mistyped at %d", s, got, i)
				}
			}
		}
	}
}

// What does not fit is cut, and a node that nobody could reach makes a ticket
// that nobody takes.
func TestTicketBeyondItsLimits(t *testing.T) {
	alice, bob := testIdentity(t, 1).PeerID(), testIdentity(t, 2).PeerID()
	big := Ticket{Peer: alice, Invite: make([]byte, 100)}
	for range 20 {
		big.Nodes = append(big.Nodes, NodeURL{ID: bob, Host: repeat("a", 253), Port: 1})
	}
	got, err := ParseTicket(big.String())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Nodes) != maxTicketNodes || len(got.Invite) != maxInviteLen {
		t.Errorf("%d nodes and an invitation of %d bytes are left", len(got.Nodes), len(got.Invite))
	}
	for _, bad := range []NodeURL{
		{ID: bob, Host: "", Port: 1}, {ID: bob, Host: "a b", Port: 1}, {ID: bob, Host: repeat("a", 254), Port: 1},
		{ID: bob, Host: "a"}, {Host: "a", Port: 1},
	} {
		if got, err := ParseTicket(Ticket{Peer: alice, Nodes: []NodeURL{bad}}.String()); err == nil {
			t.Errorf("node %+v comes out as %+v", bad, got.Nodes)
		}
	}
	loose := Ticket{Peer: alice, Nodes: []NodeURL{{ID: bob, Host: "::ffff:192.0.2.1", Port: 1}}}
	if got, err := ParseTicket(loose.String()); err != nil || got.Nodes[0].Host != "192.0.2.1" {
		t.Errorf("a mapped address comes out as %+v, %v", got.Nodes, err)
	}
}

func FuzzParseTicket(f *testing.F) {
	for _, test := range ticketTable(f) {
		f.Add(test.ticket.String())
		f.Add(strings.ToUpper(test.ticket.String()))
	}
	f.Add("sally1")
	f.Fuzz(func(t *testing.T, s string) {
		if ticket, err := ParseTicket(s); err == nil && ticket.String() != strings.ToLower(s) {
			t.Errorf("%q parses to %+v, which prints as %s", s, ticket, ticket)
		}
	})
}

// The checksum keeps a fuzzer out; this one starts behind it.
func FuzzTicketPayload(f *testing.F) {
	for _, test := range ticketTable(f) {
		payload, err := hex.DecodeString(test.hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		ticket, err := parseTicketPayload(payload)
		if err != nil {
			return
		}
		if got, want := ticket.String(), ticketText(payload); got != want {
			t.Errorf("%x parses to %+v, which is written as %s, not %s", payload, ticket, got, want)
		}
		for _, node := range ticket.Nodes {
			if again, err := ParseNodeURL(node.String()); err != nil || again != node {
				t.Errorf("node %+v prints as %s, which parses to %+v, %v", node, node, again, err)
			}
		}
	})
}
