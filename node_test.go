package sallyport

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestNodeURL(t *testing.T) {
	id := testIdentity(t, 1).PeerID()
	for _, test := range []struct {
		hostport string // behind sally://ID@
		host     string
		port     uint16
		text     string // as printed; "" where it is hostport itself
	}{
		{"node.example.org:443", "node.example.org", 443, ""},
		{"node.example.org", "node.example.org", 3478, "node.example.org:3478"},
		{"node.example.org:", "node.example.org", 3478, "node.example.org:3478"},
		{"node.example.org/", "node.example.org", 3478, "node.example.org:3478"},
		{"node.example.org:443/", "node.example.org", 443, "node.example.org:443"},
		{"localhost:1", "localhost", 1, ""},
		{"my_node-1.lan:65535", "my_node-1.lan", 65535, ""},
		{"192.0.2.1:3478", "192.0.2.1", 3478, ""},
		{"192.0.2.1", "192.0.2.1", 3478, "192.0.2.1:3478"},
		{"[2001:db8::1]:3478", "2001:db8::1", 3478, ""},
		{"[2001:db8::1]", "2001:db8::1", 3478, "[2001:db8::1]:3478"},
		{"[2001:DB8:0:0::1]:5", "2001:db8::1", 5, "[2001:db8::1]:5"},
		{"[::ffff:192.0.2.1]:5", "192.0.2.1", 5, "192.0.2.1:5"},
		{"[fe80::1%eth0.1]:5", "fe80::1%eth0.1", 5, ""},
		{strings.Repeat("a", 253) + ":5", strings.Repeat("a", 253), 5, ""},
	} {
		t.Run(test.hostport, func(t *testing.T) {
			text := nodeScheme + id.String() + "@" + test.hostport
			want := NodeURL{ID: id, Host: test.host, Port: test.port}
			got, err := ParseNodeURL(text)
			if err != nil || got != want {
				t.Fatalf("ParseNodeURL = %+v, %v; want %+v", got, err, want)
			}
			printed := test.text
			if printed == "" {
				printed = test.hostport
			}
			if got.String() != nodeScheme+id.String()+"@"+printed || got.HostPort() != printed {
				t.Errorf("prints as %s, want …@%s", got, printed)
			}
			if again, err := ParseNodeURL(got.String()); err != nil || again != got {
				t.Errorf("parsed again: %+v, %v", again, err)
			}
		})
	}
}

func TestParseNodeURLErrors(t *testing.T) {
	id := testIdentity(t, 1).PeerID().String()
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "want sally://NODEID@host:port"},
		{"peer ID", id, "want sally://NODEID@host:port"},
		{"other scheme", "https://" + id + "@host", "want sally://NODEID@host:port"},
		{"no host", "sally://" + id, "no @ between the node's ID and its host"},
		{"no ID", "sally://@host", "node's ID: peer ID is empty"},
		{"only host", "sally://host:1", "no @ between the node's ID and its host"},
		{"bad ID", "sally://" + id[:55] + "@host", "node's ID: peer ID has 55 characters, want 56"},
		{"empty host", "sally://" + id + "@:1", "host has 0 characters, want 1 to 253"},
		{"nothing behind @", "sally://" + id + "@", "host has 0 characters, want 1 to 253"},
		{"long host", "sally://" + id + "@" + strings.Repeat("a", 254), "host has 254 characters, want 1 to 253"},
		{"port 0", "sally://" + id + "@host:0", `port "0" is not a number from 1 to 65535`},
		{"large port", "sally://" + id + "@host:65536", `port "65536" is not a number from 1 to 65535`},
		{"negative port", "sally://" + id + "@host:-1", `port "-1" is not a number from 1 to 65535`},
		{"signed port", "sally://" + id + "@host:+1", `port "+1" is not a number from 1 to 65535`},
		{"service name", "sally://" + id + "@host:https", `port "https" is not a number from 1 to 65535`},
		{"bare IPv6", "sally://" + id + "@2001:db8::1", "an IPv6 address needs brackets, as in [2001:db8::1]:3478"},
		{"open bracket", "sally://" + id + "@[2001:db8::1", "an IPv6 address needs brackets"},
		{"text behind bracket", "sally://" + id + "@[2001:db8::1]x:5", "host and port"},
		{"name in brackets, a path", "sally://" + id + "@host/path", `host "host/path" is neither an IP address nor a DNS name`},
		{"second @", "sally://" + id + "@a@b:1", "neither an IP address nor a DNS name"},
		{"space", "sally://" + id + "@ho st:1", "neither an IP address nor a DNS name"},
		{"newline", "sally://" + id + "@host\n", "neither an IP address nor a DNS name"},
		{"control character in a zone", "sally://" + id + "@[fe80::1%\x1b]:1", "neither an IP address nor a DNS name"},
		{"not ASCII", "sally://" + id + "@bücher.example:1", "neither an IP address nor a DNS name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseNodeURL(test.text)
			wantError(t, err, "node URL ")
			wantError(t, err, test.want)
			if got != (NodeURL{}) {
				t.Errorf("beside the error there is %+v", got)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q passes control characters on", err)
			}
		})
	}
}

// Every beginning of a URL fails, but where only the port or the name gets shorter.
func TestTruncatedNodeURL(t *testing.T) {
	text := NodeURL{ID: testIdentity(t, 1).PeerID(), Host: "2001:db8::1", Port: 3}.String()
	for n := range len(text) - len(":3") {
		if got, err := ParseNodeURL(text[:n]); err == nil {
			t.Errorf("%q parses to %v", text[:n], got)
		}
	}
}

func TestNodeURLInJSON(t *testing.T) {
	want := NodeURL{ID: testIdentity(t, 1).PeerID(), Host: "192.0.2.1", Port: 3478}
	text, err := json.Marshal([]NodeURL{want})
	if err != nil || string(text) != `["`+want.String()+`"]` {
		t.Fatalf("JSON is %s, %v", text, err)
	}
	var back []NodeURL
	if err := json.Unmarshal(text, &back); err != nil || len(back) != 1 || back[0] != want {
		t.Errorf("JSON round trip: %v, %v", back, err)
	}
	kept := want
	wantError(t, kept.UnmarshalText([]byte("sally://")), "node URL")
	if kept != want {
		t.Error("a failed UnmarshalText changed the URL")
	}
}

func FuzzParseNodeURL(f *testing.F) {
	prefix := nodeScheme + testIdentity(f, 1).PeerID().String() + "@"
	for _, s := range []string{"host", "host:1", "192.0.2.1:443", "[2001:db8::1]:3478", "[::ffff:192.0.2.1]", "[fe80::1%eth0]:1", "[host]:1", "a@b:1", "[[::1]]:1", "::1:"} {
		f.Add(prefix + s)
	}
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		url, err := ParseNodeURL(s)
		if err != nil {
			return
		}
		again, err := ParseNodeURL(url.String())
		if err != nil || again != url {
			t.Errorf("%q parses to %+v, which prints as %s, which parses to %+v, %v", s, url, url, again, err)
		}
		ticket, err := ParseTicket(Ticket{Peer: url.ID, Nodes: []NodeURL{url}}.String())
		if err != nil || ticket.Nodes[0] != url {
			t.Errorf("%+v comes out of a ticket as %+v, %v", url, ticket.Nodes, err)
		}
	})
}
