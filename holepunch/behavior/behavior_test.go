package behavior

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	"go.uber.org/goleak"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const stunPort = 3478

// stunServer is a server on natlab: with two addresses by RFC 5780, with one by RFC 8489.
type stunServer struct {
	addrs []netip.Addr
	conns map[netip.AddrPort]net.PacketConn
}

func newSTUNServer(t *testing.T, h *natlab.Host, count int, v4 bool) *stunServer {
	t.Helper()
	s := &stunServer{conns: map[netip.AddrPort]net.PacketConn{}}
	for _, p := range h.Addrs() {
		if p.Addr().Is4() == v4 && len(s.addrs) < count {
			s.addrs = append(s.addrs, p.Addr())
		}
	}
	if len(s.addrs) < count {
		t.Fatalf("%s has %d addresses of the family, want %d", h.Name(), len(s.addrs), count)
	}
	for _, a := range s.addrs {
		for port := range uint16(2) {
			local := netip.AddrPortFrom(a, stunPort+port)
			conn, err := h.ListenPacket("udp", local.String())
			if err != nil {
				t.Fatal(err)
			}
			s.conns[local] = conn
		}
	}
	for local, conn := range s.conns {
		go s.serve(local, conn) // ends when the internet is closed
	}
	return s
}

func (s *stunServer) addr() netip.AddrPort { return netip.AddrPortFrom(s.addrs[0], stunPort) }

func (s *stunServer) serve(local netip.AddrPort, conn net.PacketConn) {
	var buf [1500]byte
	for {
		n, from, err := conn.ReadFrom(buf[:])
		if err != nil {
			return
		}
		m := &stun.Message{Raw: slices.Clone(buf[:n])}
		if m.Decode() != nil {
			continue
		}
		out, reply := s.answer(local, m, from.(*net.UDPAddr))
		s.conns[out].WriteTo(reply.Raw, from)
	}
}

func (s *stunServer) answer(local netip.AddrPort, m *stun.Message, from *net.UDPAddr) (netip.AddrPort, *stun.Message) {
	change, _ := m.Get(stun.AttrChangeRequest)
	id := stun.NewTransactionIDSetter(m.TransactionID)
	mapped := &stun.XORMappedAddress{IP: from.IP, Port: from.Port}
	if len(s.addrs) == 1 {
		if change != nil {
			return local, stun.MustBuild(id, stun.BindingError, stun.ErrorCodeAttribute{Code: stun.CodeUnknownAttribute})
		}
		return local, stun.MustBuild(id, stun.BindingSuccess, mapped)
	}
	otherIP, otherPort := s.addrs[0], uint16(stunPort)
	if local.Addr() == s.addrs[0] {
		otherIP = s.addrs[1]
	}
	if local.Port() == stunPort {
		otherPort++
	}
	out := local
	if len(change) == 4 && change[3]&flagChangeIP != 0 {
		out = netip.AddrPortFrom(otherIP, out.Port())
	}
	if len(change) == 4 && change[3]&flagChangePort != 0 {
		out = netip.AddrPortFrom(out.Addr(), otherPort)
	}
	other := &stun.OtherAddress{IP: otherIP.AsSlice(), Port: int(otherPort)}
	return out, stun.MustBuild(id, stun.BindingSuccess, mapped, other)
}

// verdict is what a report says about one family, in one line.
func verdict(f Family) string {
	return strings.Join([]string{f.Mapping.String(), f.Filtering.String(), f.Allocation.String()}, " ")
}

func measure(t *testing.T, h *natlab.Host, servers ...netip.AddrPort) *Report {
	t.Helper()
	report, err := Measure(t.Context(), Config{
		Servers:      servers,
		ListenPacket: h.ListenPacket,
		LocalAddrs: func() (addrs []netip.Addr, _ error) {
			for _, p := range h.Addrs() {
				addrs = append(addrs, p.Addr())
			}
			return addrs, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func serverAddrs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("8.8.4.1/32"), netip.MustParsePrefix("8.8.5.1/32"),
		netip.MustParsePrefix("2606:4700::1/128"), netip.MustParsePrefix("2606:4700::2/128")}
}

// TestVerdicts measures every kind of site that natlab has, against servers with two
// addresses and two ports.
func TestVerdicts(t *testing.T) {
	const ei, ad, ap = "endpoint-independent", "address-dependent", "address-and-port-dependent"
	tests := map[natlab.SiteKind]struct{ v4, v6 string }{
		natlab.SiteNone:                {"none none unknown", ""},
		natlab.SiteFullCone:            {ei + " " + ei + " unknown", ""},
		natlab.SiteRestrictedCone:      {ei + " " + ad + " unknown", ""},
		natlab.SitePortRestricted:      {ei + " " + ap + " unknown", ""},
		natlab.SiteSymmetric:           {ap + " " + ap + " unknown", ""},
		natlab.SiteSymmetricSequential: {ap + " " + ap + " unknown", ""},
		natlab.SiteSymmetricDelta:      {ap + " " + ap + " unknown", ""},
		natlab.SiteSymmetricBlock:      {ap + " " + ap + " unknown", ""},
		natlab.SiteAddressDependent:    {ad + " " + ad + " unknown", ""},
		natlab.SiteCarrier:             {ei + " " + ap + " unknown", ""},
		// Linux maps by endpoint but keeps the port while it can: nobody outside sees a difference.
		natlab.SiteLinux:        {ei + " " + ap + " preserving", ""},
		natlab.SiteUDPBlocked:   {"", ""},
		natlab.SiteIPv6Firewall: {"", "none " + ap + " unknown"},
		natlab.SiteDualStack:    {ap + " " + ap + " unknown", "none " + ap + " unknown"},
	}
	for _, kind := range natlab.SiteKinds() {
		want, known := tests[kind]
		if !known {
			t.Errorf("no verdict is expected for %s: add it here", kind)
		}
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := natlab.New(natlab.Config{Link: natlab.LinkConfig{Latency: 10 * time.Millisecond}})
				defer in.Close()
				node := in.Host("node", natlab.HostConfig{Addrs: serverAddrs()})
				v4, v6 := newSTUNServer(t, node, 2, true), newSTUNServer(t, node, 2, false)
				site, err := in.Site(kind, "home")
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				report := measure(t, site.Host, v4.addr(), v6.addr())
				if took := time.Since(start); took > MaxTime {
					t.Errorf("took %v, more than MaxTime", took)
				}
				if got, want := report.UDP, want.v4 != "" || want.v6 != ""; got != want {
					t.Errorf("UDP = %v, want %v", got, want)
				}
				wantVerdict(t, "IPv4", report.IPv4, want.v4)
				wantVerdict(t, "IPv6", report.IPv6, want.v6)
			})
		})
	}
}

func wantVerdict(t *testing.T, name string, f Family, want string) {
	t.Helper()
	if want == "" {
		want = "unknown unknown unknown"
		if f.Mapped.IsValid() {
			t.Errorf("%s: mapped to %v, want silence", name, f.Mapped)
		}
	} else if !f.Mapped.IsValid() {
		t.Errorf("%s: no mapped address", name)
	}
	if got := verdict(f); got != want {
		t.Errorf("%s: mapping, filtering, allocation = %s, want %s", name, got, want)
	}
}

// TestPlainServers: servers with one address each tell the mapping between them, and never
// the filtering.
func TestPlainServers(t *testing.T) {
	for kind, want := range map[natlab.SiteKind][2]Behavior{
		natlab.SitePortRestricted: {Unknown, EndpointIndependent},
		natlab.SiteSymmetric:      {Unknown, AddressAndPortDependent},
		natlab.SiteNone:           {None, None},
	} {
		synctest.Test(t, func(t *testing.T) {
			in := natlab.New(natlab.Config{Link: natlab.LinkConfig{Latency: 10 * time.Millisecond}})
			defer in.Close()
			one := newSTUNServer(t, in.Host("one", natlab.HostConfig{}), 1, true)
			two := newSTUNServer(t, in.Host("two", natlab.HostConfig{}), 1, true)
			site, err := in.Site(kind, "home")
			if err != nil {
				t.Fatal(err)
			}
			if got := measure(t, site.Host, one.addr()).IPv4.Mapping; got != want[0] {
				t.Errorf("%s, one server: mapping %v, want %v", kind, got, want[0])
			}
			report := measure(t, site.Host, one.addr(), two.addr())
			if got := report.IPv4.Mapping; got != want[1] {
				t.Errorf("%s, two servers: mapping %v, want %v", kind, got, want[1])
			}
			if report.IPv4.Filtering != Unknown {
				t.Errorf("%s: filtering %v was guessed", kind, report.IPv4.Filtering)
			}
		})
	}
}

// TestLoss: a fifth of all packets lost changes no verdict of mapping.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{Seed: 7})
		defer in.Close()
		node := in.Host("node", natlab.HostConfig{Addrs: serverAddrs(), Link: natlab.LinkConfig{Latency: time.Millisecond, Loss: 0.2}})
		server := newSTUNServer(t, node, 2, true)
		site, err := in.Site(natlab.SiteSymmetric, "home")
		if err != nil {
			t.Fatal(err)
		}
		if got := measure(t, site.Host, server.addr()).IPv4.Mapping; got != AddressAndPortDependent {
			t.Errorf("mapping = %v", got)
		}
	})
}

func TestMeasureEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{})
		defer in.Close()
		host := in.Host("alone", natlab.HostConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := Measure(ctx, Config{Servers: []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:3478")}, ListenPacket: host.ListenPacket})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the context's", err)
		}
	})
}

func TestMeasureWantsServers(t *testing.T) {
	if _, err := Measure(t.Context(), Config{}); err == nil {
		t.Error("no server: no error")
	}
	if _, err := Measure(t.Context(), Config{Servers: make([]netip.AddrPort, maxServers+1)}); err == nil {
		t.Error("too many servers: no error")
	}
}

func TestFindings(t *testing.T) {
	mapped := netip.MustParseAddrPort("5.6.7.8:9000")
	tests := []struct {
		name   string
		report Report
		want   []string
	}{
		{"blocked", Report{Servers: make([]Server, 2), IPv6: Family{Local: true}}, []string{"bad udp-blocked"}},
		{"cone", Report{UDP: true, IPv4: Family{Mapped: mapped, Mapping: EndpointIndependent, Filtering: AddressAndPortDependent}},
			[]string{"info filtering-address-and-port-dependent", "info no-ipv6", "good nat-mapping-endpoint-independent"}},
		{"symmetric", Report{UDP: true, IPv4: Family{Mapped: mapped, Mapping: AddressDependent}, IPv6: Family{Local: true}},
			[]string{"warning nat-mapping-endpoint-dependent"}},
		{"public", Report{UDP: true, IPv4: Family{Mapped: mapped, Mapping: None, Filtering: None}, IPv6: Family{Local: true}},
			[]string{"good no-nat", "good filtering-endpoint-independent"}},
		{"carrier", Report{UDP: true, IPv4: Family{Mapped: mapped, Carrier: true}, IPv6: Family{Local: true}},
			[]string{"info nat-mapping-unknown", "info carrier-nat"}},
		{"one silent", Report{UDP: true, Servers: []Server{{Mapped: mapped}, {}, {Err: net.ErrClosed}}, IPv6: Family{Local: true}},
			[]string{"warning server-silent", "info server-unreachable"}},
	}
	for _, tt := range tests {
		var got []string
		for _, f := range tt.report.Findings() {
			got = append(got, f.Severity.String()+" "+f.ID)
			if f.Text == "" {
				t.Errorf("%s: %s has no text", tt.name, f.ID)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// FuzzTake: no packet panics, and none without the transaction ID counts.
func FuzzTake(f *testing.F) {
	var id [stun.TransactionIDSize]byte
	setID := stun.NewTransactionIDSetter(id)
	f.Add(stun.MustBuild(setID, stun.BindingSuccess, &stun.XORMappedAddress{IP: net.IPv4(1, 2, 3, 4), Port: 5},
		&stun.OtherAddress{IP: net.IPv4(1, 2, 3, 5), Port: 6}).Raw)
	f.Add(stun.MustBuild(setID, stun.BindingError, stun.ErrorCodeAttribute{Code: 420}).Raw)
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		x := &exchange{id: id}
		take([]*exchange{x}, slices.Clone(b))
		if !x.done {
			return
		}
		if len(b) < 20 || [12]byte(b[8:20]) != id {
			t.Error("a foreign transaction ID was taken")
		}
		for n := range b {
			y := &exchange{id: id}
			if take([]*exchange{y}, slices.Clone(b[:n])); y.done {
				t.Errorf("the first %d of %d bytes were taken", n, len(b))
			}
		}
	})
}
