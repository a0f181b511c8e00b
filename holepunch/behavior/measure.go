package behavior

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// measurement is one Measure at work: two sockets and what is known so far.
// Filtering has a socket of its own, because a filter that was opened towards the
// second address by a mapping test would let everything of the filtering test in.
type measurement struct {
	mapping, filtering *socket
	local              []netip.Addr
	report             Report
}

func newMeasurement(cfg Config) (*measurement, error) {
	listen, addrs, rto := cfg.ListenPacket, cfg.LocalAddrs, cfg.RTO
	if listen == nil {
		listen = net.ListenPacket
	}
	if addrs == nil {
		addrs = systemAddrs
	}
	if rto <= 0 {
		rto = defaultRTO
	}
	local, err := addrs()
	if err != nil {
		return nil, err
	}
	m := &measurement{local: local}
	if m.mapping, err = openSocket(listen, rto); err != nil {
		return nil, err
	}
	if m.filtering, err = openSocket(listen, rto); err != nil {
		m.mapping.close()
		return nil, err
	}
	for _, s := range cfg.Servers {
		s = netip.AddrPortFrom(s.Addr().Unmap(), s.Port())
		if !slices.ContainsFunc(m.report.Servers, func(o Server) bool { return o.Addr == s }) {
			m.report.Servers = append(m.report.Servers, Server{Addr: s})
		}
	}
	m.report.IPv4, m.report.IPv6 = m.localFamily(true), m.localFamily(false)
	return m, nil
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

func (m *measurement) localFamily(v4 bool) (f Family) {
	for _, a := range m.local {
		if a.Is4() == v4 && a.IsGlobalUnicast() {
			f.Local = true
			f.Carrier = f.Carrier || sharedSpace.Contains(a)
		}
	}
	return f
}

// ask sends a plain request to every server.
func (m *measurement) ask(ctx context.Context) error {
	questions := make([]question, len(m.report.Servers))
	for i, s := range m.report.Servers {
		questions[i] = question{to: s.Addr}
	}
	answers, err := m.mapping.ask(ctx, questions...)
	if err != nil {
		return err
	}
	for i, a := range answers {
		s := &m.report.Servers[i]
		s.Mapped, s.Other, s.RTT, s.Err = a.mapped, a.other, a.rtt, a.err
		m.report.UDP = m.report.UDP || s.Mapped.IsValid()
	}
	return nil
}

// family measures one address family, where a server of it answered.
func (m *measurement) family(ctx context.Context, v4 bool) error {
	f := &m.report.IPv6
	if v4 {
		f = &m.report.IPv4
	}
	answered := slices.DeleteFunc(slices.Clone(m.report.Servers), func(s Server) bool {
		return !s.Mapped.IsValid() || s.Addr.Addr().Is4() != v4
	})
	if len(answered) == 0 {
		return nil
	}
	f.Mapped = answered[0].Mapped
	port := m.mapping.port()
	behindNAT := !slices.Contains(m.local, f.Mapped.Addr())
	if behindNAT && f.Mapped.Port() == port {
		f.Allocation = Preserving
	}
	full := slices.IndexFunc(answered, func(s Server) bool { return twoByTwo(s) })
	if full >= 0 {
		if err := m.tests(ctx, f, answered[full]); err != nil {
			return err
		}
	} else {
		f.Mapping = compare(answered)
	}
	if !behindNAT && f.Mapped.Port() == port {
		f.Mapping = None
	}
	return nil
}

// twoByTwo reports whether s can run the tests: "OTHER-ADDRESS ... the alternate IP
// address and port", both of which differ (RFC 5780 section 7.4), on an address of
// the same family that is not here on this machine.
func twoByTwo(s Server) bool {
	return s.Other.IsValid() && s.Other.Addr().Is4() == s.Addr.Addr().Is4() &&
		s.Other.Addr() != s.Addr.Addr() && s.Other.Port() != s.Addr.Port()
}

// tests runs RFC 5780 section 4.3 (mapping) and 4.4 (filtering) against s.
func (m *measurement) tests(ctx context.Context, f *Family, s Server) error {
	second := netip.AddrPortFrom(s.Other.Addr(), s.Addr.Port())
	answers, err := m.mapping.ask(ctx, question{to: second}, question{to: s.Other})
	if err != nil {
		return err
	}
	f.Mapping = mappingOf(s.Mapped, answers[0].mapped, answers[1].mapped)
	first, err := m.filtering.ask(ctx, question{to: s.Addr})
	if err != nil || !first[0].mapped.IsValid() {
		return err
	}
	m.filtering.hurry(s.RTT)
	answers, err = m.filtering.ask(ctx,
		question{to: s.Addr, changeIP: true, changePort: true},
		question{to: s.Addr, changePort: true})
	if err != nil {
		return err
	}
	f.Filtering = filteringOf(answers[0], answers[1])
	if f.Filtering == EndpointIndependent && m.own(first[0].mapped) {
		f.Filtering = None
	}
	return nil
}

func (m *measurement) own(a netip.AddrPort) bool { return slices.Contains(m.local, a.Addr()) }

// mappingOf compares what the primary address, the second address and its second
// port saw: RFC 5780 section 4.3 tests I to III.
func mappingOf(first, second, third netip.AddrPort) Behavior {
	switch {
	case !second.IsValid() || !third.IsValid():
		return Unknown
	case first == second:
		return EndpointIndependent
	case second == third:
		return AddressDependent
	}
	return AddressAndPortDependent
}

// filteringOf judges which answers from elsewhere came in: RFC 5780 section 4.4 tests II and III.
func filteringOf(otherAddress, otherPort answer) Behavior {
	switch {
	case otherAddress.code != 0 || otherPort.code != 0:
		return Unknown // the server does not do it after all
	case otherAddress.mapped.IsValid():
		return EndpointIndependent
	case otherPort.mapped.IsValid():
		return AddressDependent
	}
	return AddressAndPortDependent
}

// compare judges the mapping by servers that know only their one address. Different mapped
// addresses prove that the mapping depends on the endpoint; on what of it remains open, and the
// stricter kind is both far more common and the safer assumption.
func compare(answered []Server) Behavior {
	result := Unknown
	for _, s := range answered[1:] {
		switch {
		case s.Mapped != answered[0].Mapped:
			return AddressAndPortDependent
		case s.Addr.Addr() != answered[0].Addr.Addr():
			result = EndpointIndependent
		}
	}
	return result
}

// hurry shortens the timeouts for answers that may well never come, now that the round
// trip is known.
func (s *socket) hurry(rtt time.Duration) {
	s.rto = min(s.rto, max(2*rtt, 50*time.Millisecond))
}

func openSocket(listen func(string, string) (net.PacketConn, error), rto time.Duration) (*socket, error) {
	conn, err := listen("udp", ":0")
	if err != nil {
		return nil, fmt.Errorf("opening a UDP socket: %w", err)
	}
	return &socket{conn: conn, rto: rto}, nil
}
