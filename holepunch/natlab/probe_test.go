package natlab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// prober finds out from outside what a NAT does, after RFC 5780, section 4.3 and 4.4, with a
// protocol of one byte of its own. It knows nothing of the engine: two server addresses, two ports
// each; a request names the socket that shall answer; the answer says where the request came from.
type prober struct {
	t       *testing.T
	servers [4]net.PacketConn // A:1 A:2 B:1 B:2
	addrs   [4]net.Addr
}

func newProber(t *testing.T, in *natlab.Internet) *prober {
	p := &prober{t: t}
	for i := range 2 {
		h := in.Host(fmt.Sprint("probe", i), natlab.HostConfig{})
		for j := range 2 {
			c := listen(t, h, fmt.Sprintf("%v:%d", h.Addr(), 3478+j))
			p.servers[2*i+j], p.addrs[2*i+j] = c, c.LocalAddr()
		}
	}
	for _, c := range p.servers {
		go p.serve(c)
	}
	return p
}

func (p *prober) serve(c net.PacketConn) {
	b := make([]byte, 100)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if n == 1 && b[0] < 4 {
			_, _ = p.servers[b[0]].WriteTo([]byte(from.String()), from)
		}
	}
}

func (p *prober) close() {
	for _, c := range p.servers {
		_ = c.Close()
	}
}

// ask sends a request to server i, to be answered by server j, and returns the mapped address, or
// "" if no answer comes.
func (p *prober) ask(c net.PacketConn, i, j int) string {
	p.t.Helper()
	if _, err := c.WriteTo([]byte{byte(j)}, p.addrs[i]); err != nil {
		p.t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	b := make([]byte, 100)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return ""
	}
	if from.String() != p.addrs[j].String() {
		p.t.Errorf("asked %v to answer, %v did", p.addrs[j], from)
	}
	return string(b[:n])
}

// mapping is section 4.3: "Determining NAT Mapping Behavior".
func (p *prober) mapping(h *natlab.Host) string {
	c := listen(p.t, h, ":0")
	first := p.ask(c, 0, 0)
	switch {
	case first == "":
		return "blocked"
	case p.ask(c, 2, 2) == first && p.ask(c, 3, 3) == first:
		if netip.MustParseAddrPort(first).Addr() == h.Addr() {
			return "none"
		}
		return "endpoint-independent"
	case p.ask(c, 3, 3) == p.ask(c, 2, 2):
		return "address-dependent"
	}
	return "address-and-port-dependent"
}

// filtering is section 4.4: "Determining NAT Filtering Behavior".
func (p *prober) filtering(h *natlab.Host) string {
	c := listen(p.t, h, ":0")
	switch {
	case p.ask(c, 0, 3) != "":
		return "endpoint-independent"
	case p.ask(c, 0, 1) != "":
		return "address-dependent"
	case p.ask(c, 0, 0) != "":
		return "address-and-port-dependent"
	}
	return "blocked"
}

func listen(t *testing.T, h *natlab.Host, address string) net.PacketConn {
	t.Helper()
	c, err := h.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSitesSeenFromOutside(t *testing.T) {
	const eim, adm, apdm = "endpoint-independent", "address-dependent", "address-and-port-dependent"
	for _, c := range []struct{ kind, mapping, filtering string }{
		{"none", "none", eim},
		{"full-cone", eim, eim},
		{"restricted-cone", eim, adm},
		{"port-restricted", eim, apdm},
		{"symmetric", apdm, apdm},
		{"symmetric-sequential", apdm, apdm},
		{"symmetric-delta", apdm, apdm},
		{"symmetric-block", apdm, apdm},
		{"address-dependent", adm, adm},
		{"carrier", eim, apdm},
		{"linux", eim, apdm}, // until a stranger knocks, see TestLinuxSiteLosesThePort
		{"udp-blocked", "blocked", "blocked"},
		{"dual-stack", apdm, apdm},
	} {
		t.Run(c.kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := natlab.New(natlab.Config{Seed: 5, Link: natlab.LinkConfig{Latency: 10 * time.Millisecond}})
				defer in.Close()
				kind, err := natlab.ParseSiteKind(c.kind)
				if err != nil {
					t.Fatal(err)
				}
				site, err := in.Site(kind, "site")
				if err != nil {
					t.Fatal(err)
				}
				p := newProber(t, in)
				defer p.close()
				if got := p.mapping(site.Host); got != c.mapping {
					t.Errorf("mapping %s, want %s", got, c.mapping)
				}
				if got := p.filtering(site.Host); got != c.filtering {
					t.Errorf("filtering %s, want %s", got, c.filtering)
				}
			})
		})
	}
}

// TestPresetAllocation samples ports as a predictor would.
func TestPresetAllocation(t *testing.T) {
	for kind, want := range map[natlab.SiteKind]func(d int) bool{
		natlab.SiteSymmetricSequential: func(d int) bool { return d == 1 },
		natlab.SiteSymmetricDelta:      func(d int) bool { return d == 3 },
		natlab.SiteSymmetricBlock:      func(d int) bool { return d > -2048 && d < 2048 },
	} {
		synctest.Test(t, func(t *testing.T) {
			in := natlab.New(natlab.Config{Seed: 5})
			defer in.Close()
			site, err := in.Site(kind, "site")
			if err != nil {
				t.Fatal(err)
			}
			p := newProber(t, in)
			defer p.close()
			c := listen(t, site.Host, ":0")
			last := 0
			for i := range 4 {
				port := int(netip.MustParseAddrPort(p.ask(c, i, i)).Port())
				if last != 0 && !want(port-last) {
					t.Errorf("%s: port %d after %d", kind, port, last)
				}
				last = port
			}
		})
	}
}

func TestLinuxSiteLosesThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{})
		defer in.Close()
		site, err := in.Site(natlab.SiteLinux, "site")
		if err != nil {
			t.Fatal(err)
		}
		p := newProber(t, in)
		defer p.close()
		c := listen(t, site.Host, ":0")
		first := p.ask(c, 0, 0)
		if got := p.ask(c, 0, 3); got != "" {
			t.Fatal("a stranger was let in")
		}
		// Server 3 has knocked: its tuple is gone, the others' are not.
		if got := p.ask(c, 3, 3); got == "" || got == first {
			t.Errorf("towards the knocker: %q, want a port other than that of %s", got, first)
		}
		if got := p.ask(c, 2, 2); got != first {
			t.Errorf("towards others: %q, want %s", got, first)
		}
	})
}
