package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sallyport-net/sallyport"
)

// listening is one UDP socket of a node or relay, and how the world reaches it.
type listening struct {
	conn      net.PacketConn
	addr      netip.AddrPort // as bound
	advertise netip.AddrPort
	alternate bool // only there for RFC 5780's tests
}

// network is "udp4" or "udp6", for which an unspecified address means one family only.
func network(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

// parseListen reads IP[:PORT] values; without any, it is every address of both families.
func parseListen(values []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, text := range values {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		addr, err := netip.ParseAddrPort(text)
		if err != nil {
			ip, ipErr := netip.ParseAddr(strings.Trim(text, "[]"))
			if ipErr != nil {
				return nil, usagef("--listen %q: want IP or IP:PORT, as in 203.0.113.5:3478 or [2001:db8::5]:3478", text)
			}
			addr = netip.AddrPortFrom(ip, sallyport.DefaultNodePort)
		}
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out, nil
}

// listenDefault is every address of both families; a machine without one of them does with
// the other.
func listenDefault(port uint16) ([]*listening, error) {
	var out []*listening
	var failed []error
	for _, ip := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		l, err := listenOn(netip.AddrPortFrom(ip, port))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if port == 0 {
			port = l.addr.Port() // the same for both families, if it can be had
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errors.Join(failed...)
	}
	return out, nil
}

func listenOn(addr netip.AddrPort) (*listening, error) {
	conn, err := net.ListenPacket(network(addr.Addr()), addr.String())
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, cause(err))
	}
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return &listening{conn: conn, addr: netip.AddrPortFrom(addr.Addr(), bound.Port())}, nil
}

// cause takes the addresses out of a socket error: they are named already.
func cause(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// listenAll opens the sockets asked for. Where two IP addresses of one family are among them,
// each gets the other's port too, or the next one, so that RFC 5780's tests can be answered.
func listenAll(addrs []netip.AddrPort) (out []*listening, err error) {
	defer func() {
		if err != nil {
			closeAll(out)
		}
	}()
	for _, addr := range addrs {
		l, err := listenOn(addr)
		if err != nil {
			return out, err
		}
		out = append(out, l)
	}
	for _, addr := range alternates(out) {
		l, err := listenOn(addr)
		if err != nil {
			return out, err
		}
		l.alternate = true
		out = append(out, l)
	}
	return out, nil
}

// alternates completes two IP addresses of a family to two addresses × two ports.
func alternates(have []*listening) (missing []netip.AddrPort) {
	for _, v4 := range []bool{true, false} {
		var ips []netip.Addr
		var ports []uint16
		for _, l := range have {
			if l.addr.Addr().Is4() != v4 || l.addr.Addr().IsUnspecified() {
				continue
			}
			ips, ports = appendNew(ips, l.addr.Addr()), appendNew(ports, l.addr.Port())
		}
		if len(ips) < 2 {
			continue
		}
		if len(ports) == 1 {
			ports = append(ports, nextPort(ports[0]))
		}
		for _, ip := range ips[:2] {
			for _, port := range ports[:2] {
				addr := netip.AddrPortFrom(ip, port)
				if !slices.ContainsFunc(have, func(l *listening) bool { return l.addr == addr }) {
					missing = append(missing, addr)
				}
			}
		}
	}
	return missing
}

func nextPort(port uint16) uint16 {
	if port == 65535 {
		return port - 1
	}
	return port + 1
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

func closeAll(sockets []*listening) {
	for _, l := range sockets {
		l.conn.Close()
	}
}

// advertising says under which addresses the world reaches this machine.
type advertising struct {
	host   string              // for URLs; a name or an IP address
	family map[bool]netip.Addr // by "is IPv4"; for sockets bound to every address
}

// advertised finds how the world reaches the sockets: by --advertise, or by this machine's own
// addresses.
func advertised(ctx context.Context, host string, sockets []*listening) (*advertising, error) {
	a := &advertising{host: host, family: map[bool]netip.Addr{}}
	if host != "" {
		if err := a.named(ctx, host); err != nil {
			return nil, err
		}
	}
	for _, l := range sockets {
		v4 := l.addr.Addr().Is4()
		ip := l.addr.Addr()
		switch {
		case host != "" && a.family[v4].IsValid() && (ip.IsUnspecified() || !several(sockets, v4)):
			ip = a.family[v4]
		case ip.IsUnspecified():
			if !a.family[v4].IsValid() {
				a.family[v4] = ownAddr(v4)
			}
			ip = a.family[v4]
		}
		if ip.IsValid() {
			l.advertise = netip.AddrPortFrom(ip, l.addr.Port())
		}
	}
	if a.host == "" {
		a.host = firstHost(sockets)
	}
	return a, nil
}

// several reports whether the sockets of a family have more than one IP address: one --advertise
// cannot stand for them all then.
func several(sockets []*listening, v4 bool) bool {
	var ips []netip.Addr
	for _, l := range sockets {
		if l.addr.Addr().Is4() == v4 {
			ips = appendNew(ips, l.addr.Addr())
		}
	}
	return len(ips) > 1
}

// named takes the addresses of --advertise: one for each family.
func (a *advertising) named(ctx context.Context, host string) error {
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		a.host = ip.String()
		addrs = append(addrs, ip)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return usagef("--advertise %q: want an IP address or a name that resolves: %w", host, err)
	}
	for _, ip := range addrs {
		ip = ip.Unmap()
		if !a.family[ip.Is4()].IsValid() {
			a.family[ip.Is4()] = ip
		}
	}
	return nil
}

// firstHost prefers IPv4, which more clients have.
func firstHost(sockets []*listening) string {
	host := ""
	for _, l := range sockets {
		if !l.advertise.IsValid() {
			continue
		}
		if host == "" || l.advertise.Addr().Is4() && strings.Contains(host, ":") {
			host = l.advertise.Addr().String()
		}
	}
	return host
}

// ownAddr is the address of a family by which this machine is best reached: a public one if it
// has any, else the one its default route leaves from, else any but loopback. It is invalid
// where the machine has nothing of the family but loopback.
func ownAddr(v4 bool) netip.Addr {
	var candidates []netip.Addr
	if route := routeSource(v4); route.IsValid() {
		candidates = append(candidates, route)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			if ip := prefix.Addr().Unmap(); ip.Is4() == v4 && ip.IsGlobalUnicast() {
				candidates = append(candidates, ip)
			}
		}
	}
	for _, ip := range candidates {
		if isPublic(ip) {
			return ip
		}
	}
	if len(candidates) > 0 {
		return candidates[0]
	}
	return netip.Addr{}
}

// routeSource is the address that packets to the internet leave from. Connecting a UDP socket
// sends nothing.
func routeSource(v4 bool) netip.Addr {
	target := "[2001:4860:4860::8888]:9"
	if v4 {
		target = "8.8.8.8:9"
	}
	conn, err := net.Dial("udp", target)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// notPublic lists what net/netip does not know to be unreachable from the internet.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"), // RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("3fff::/20"),
}

func isPublic(ip netip.Addr) bool {
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) })
}
