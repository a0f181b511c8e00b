package main

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestEveryFlagHasVariable: "Every flag has a SALLY_… variable", docs/CLI.md.
func TestEveryFlagHasVariable(t *testing.T) {
	app := newApp(&runner{}, nil, nil)
	for _, c := range app.Commands {
		if !strings.Contains(c.Description, "Examples:") {
			t.Errorf("sally %s --help teaches no example", c.Name)
		}
		seen := map[string]string{}
		for _, f := range c.Flags {
			vars := f.(cli.DocGenerationFlag).GetEnvVars()
			if len(vars) != 1 || vars[0] != env(f.Names()[0])[0] {
				t.Errorf("sally %s --%s has the variables %q", c.Name, f.Names()[0], vars)
			}
			for _, name := range f.Names() {
				if seen[name] != "" {
					t.Errorf("sally %s has --%s twice", c.Name, name)
				}
				seen[name] = name
			}
		}
	}
}

func TestArrange(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, tt := range []struct{ in, want string }{
		{"ping PEER --until-direct", "ping --until-direct -- PEER"},
		{"ping --until-direct PEER", "ping --until-direct -- PEER"},
		{"--json --node URL ping PEER -c 3", "ping --json --node URL -c 3 -- PEER"},
		{"ping -c=3 PEER --json", "ping -c=3 --json -- PEER"},
		{"ping -- --until-direct", "ping -- --until-direct"},
		{"ping -", "ping -- -"},
		{"listen --allow any --echo", "listen --allow any --echo"},
		{"help ping", "help ping"},
		{"--json help", "help"},
		{"--help", "--help"},
		{"", ""},
	} {
		args := append([]string{"sally"}, strings.Fields(tt.in)...)
		got, err := arrange(newApp(&runner{}, nil, nil), args)
		if err != nil || strings.Join(got[1:], " ") != tt.want {
			t.Errorf("%q became %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"ping", "listen", "until-direct"}
	for word, want := range map[string]string{"pong": "ping", "pign": "ping", "lisen": "listen", "until-driect": "until-direct", "xyz": "", "": ""} {
		if got := nearest(word, names); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{"10mbit": 1e7, "1.5Mbit": 1.5e6, "64kbit": 64e3, "1gbit": 1e9, "20000bit": 20000, "20000": 20000} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "fast", "-1mbit", "0", "mbit", "nan", "1bit", "infmbit"} {
		if got, err := parseRate(text); exitCode(err) != exitUsage {
			t.Errorf("%q: %v, %v; want wrong usage", text, got, err)
		}
	}
}

func TestParseListen(t *testing.T) {
	got, err := parseListen([]string{"203.0.113.5", "[2001:db8::5]:99", "2001:db8::6", "::ffff:203.0.113.6", "203.0.113.5:3478", " "})
	var want []netip.AddrPort
	for _, s := range []string{"203.0.113.5:3478", "[2001:db8::5]:99", "[2001:db8::6]:3478", "203.0.113.6:3478"} {
		want = append(want, netip.MustParseAddrPort(s))
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, text := range []string{"here", "203.0.113.5:", "203.0.113.5:70000", ":3478", "example.net:3478"} {
		if _, err := parseListen([]string{text}); exitCode(err) != exitUsage {
			t.Errorf("%q: %v, want wrong usage", text, err)
		}
	}
}

// TestAlternates: two IP addresses of one family make two addresses × two ports, RFC 5780 section 4.
func TestAlternates(t *testing.T) {
	for _, tt := range []struct{ have, want string }{
		{"203.0.113.5:3478", ""},
		{"203.0.113.5:3478 203.0.113.6:3478", "203.0.113.5:3479 203.0.113.6:3479"},
		{"203.0.113.5:3478 203.0.113.6:5000", "203.0.113.5:5000 203.0.113.6:3478"},
		{"203.0.113.5:3478 [2001:db8::5]:3478", ""},
		{"0.0.0.0:3478 203.0.113.6:3478", ""},
		{"203.0.113.5:65535 203.0.113.6:65535", "203.0.113.5:65534 203.0.113.6:65534"},
	} {
		var have []*listening
		for text := range strings.FieldsSeq(tt.have) {
			have = append(have, &listening{addr: netip.MustParseAddrPort(text)})
		}
		var got []string
		for _, a := range alternates(have) {
			got = append(got, a.String())
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.have, got, tt.want)
		}
	}
}

func TestAdvertised(t *testing.T) {
	for _, tt := range []struct {
		host, listen, want, url string
	}{
		{"", "203.0.113.5:3478", "203.0.113.5:3478", "203.0.113.5"},
		{"198.51.100.7", "10.0.0.5:3478", "198.51.100.7:3478", "198.51.100.7"},
		{"198.51.100.7", "0.0.0.0:3478", "198.51.100.7:3478", "198.51.100.7"},
		{"[2001:db8::7]", "10.0.0.5:3478 [2001:db8::5]:3478", "10.0.0.5:3478 [2001:db8::7]:3478", "2001:db8::7"},
		// One --advertise cannot stand for two addresses.
		{"198.51.100.7", "203.0.113.5:3478 203.0.113.6:3478", "203.0.113.5:3478 203.0.113.6:3478", "198.51.100.7"},
		{"", "[2001:db8::5]:3478 203.0.113.5:3478", "[2001:db8::5]:3478 203.0.113.5:3478", "203.0.113.5"},
	} {
		var sockets []*listening
		for text := range strings.FieldsSeq(tt.listen) {
			sockets = append(sockets, &listening{addr: netip.MustParseAddrPort(text)})
		}
		a, err := advertised(t.Context(), tt.host, sockets)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range sockets {
			got = append(got, s.advertise.String())
		}
		if strings.Join(got, " ") != tt.want || a.host != tt.url {
			t.Errorf("--advertise %q on %s: %q in URL %q; want %q in %q", tt.host, tt.listen, got, a.host, tt.want, tt.url)
		}
	}
}

func TestColourWanted(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !colourWanted() {
		t.Error("NO_COLOR is empty: no colour, want it") // no-color.org: "when present and not an empty string"
	}
	t.Setenv("NO_COLOR", "1")
	if colourWanted() {
		t.Error("NO_COLOR is set: colour")
	}
	if got := style(false).green("word"); got != "word" {
		t.Errorf("no style, yet %q", got)
	}
}
