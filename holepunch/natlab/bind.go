package natlab

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
)

// ListenPacket opens a UDP socket as net.ListenPacket does. network is "udp", "udp4" or "udp6";
// address a literal "ip:port", with an empty or unspecified IP for all addresses of the host and
// port 0 for an ephemeral port. "udp" with an unspecified IP receives both families, and its
// LocalAddr is [::]:port. The result is a *Socket.
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	local, err := parseLocal(network, address)
	if err == nil {
		var s *Socket
		if s, err = h.bind(network, local); err == nil {
			return s, nil
		}
	}
	return nil, &net.OpError{Op: "listen", Net: network, Addr: net.UDPAddrFromAddrPort(local), Err: err}
}

func parseLocal(network, address string) (netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil && portText != "" {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", portText, err)
	}
	ip := netip.IPv6Unspecified()
	if host != "" {
		if ip, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, err
		}
	}
	ip = ip.Unmap()
	switch {
	case network == "udp4" && host == "":
		ip = netip.IPv4Unspecified()
	case network == "udp" && ip.IsUnspecified():
		ip = netip.IPv6Unspecified()
	case network == "udp", network == "udp4" && ip.Is4(), network == "udp6" && ip.Is6():
	case network == "udp4", network == "udp6":
		return netip.AddrPort{}, &net.AddrError{Err: "address of the other family", Addr: host}
	default:
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

func (h *Host) bind(network string, local netip.AddrPort) (*Socket, error) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if h.in.closed {
		return nil, net.ErrClosed
	}
	if !local.Addr().IsUnspecified() && !h.owns(local.Addr()) {
		return nil, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	keys, ok := h.choosePort(network, local)
	if !ok {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	s := &Socket{host: h, network: network, keys: keys}
	s.local = netip.AddrPortFrom(local.Addr(), keys[0].Port())
	s.arrived.L = &s.mu
	for _, k := range keys {
		h.sockets[k] = s
	}
	h.in.sockets[s] = struct{}{}
	return s, nil
}

// choosePort returns the endpoints a new socket will own, with an ephemeral port if local has
// none; false if the port, or all of them, are in use.
func (h *Host) choosePort(network string, local netip.AddrPort) ([]netip.AddrPort, bool) {
	if local.Port() != 0 {
		keys := bindKeys(network, local)
		return keys, h.unused(keys)
	}
	for range ephemeralPorts {
		port := firstEphemeral + h.nextPort%ephemeralPorts
		h.nextPort++
		keys := bindKeys(network, netip.AddrPortFrom(local.Addr(), port))
		if h.unused(keys) {
			return keys, true
		}
	}
	return nil, false
}

func bindKeys(network string, local netip.AddrPort) []netip.AddrPort {
	if network == "udp" && local.Addr().IsUnspecified() {
		return []netip.AddrPort{
			netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port()),
			netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port()),
		}
	}
	return []netip.AddrPort{local}
}

// unused reports whether keys conflict with no other socket; an unspecified address conflicts
// with every address of its family.
func (h *Host) unused(keys []netip.AddrPort) bool {
	for _, k := range keys {
		if h.sockets[k] != nil || h.sockets[netip.AddrPortFrom(unspecified(k.Addr()), k.Port())] != nil {
			return false
		}
		if !k.Addr().IsUnspecified() {
			continue
		}
		for o := range h.sockets {
			if o.Port() == k.Port() && o.Addr().Is4() == k.Addr().Is4() {
				return false
			}
		}
	}
	return true
}

func (h *Host) unbind(s *Socket) {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	for _, k := range s.keys {
		if h.sockets[k] == s {
			delete(h.sockets, k)
		}
	}
	delete(h.in.sockets, s)
}

// send routes one datagram of socket s.
func (h *Host) send(s *Socket, dst netip.AddrPort, ttl uint8, b []byte) error {
	h.in.mu.Lock()
	defer h.in.mu.Unlock()
	if h.in.closed {
		return net.ErrClosed
	}
	p, via, err := h.packet(s, dst, ttl, b)
	if err != nil {
		return err
	}
	now := h.in.elapsed()
	h.in.tap(now, Sent, h.name, p, nil)
	if via == nil {
		h.receive(now, p)
	} else {
		via.link.send(now, up, p)
	}
	h.in.pump(now)
	return nil
}

// packet makes the packet for one datagram; the interface is nil if it stays on the host.
func (h *Host) packet(s *Socket, dst netip.AddrPort, ttl uint8, b []byte) (Packet, *Interface, error) {
	bound, a := s.local.Addr(), dst.Addr()
	p := Packet{Dst: dst, TTL: ttl}
	switch {
	case !dst.IsValid() || dst.Port() == 0 || a.IsMulticast():
		return p, nil, os.NewSyscallError("sendto", syscall.EINVAL)
	case a.IsUnspecified():
		a = loopback(a)
		p.Dst = netip.AddrPortFrom(a, dst.Port())
	}
	if !bound.IsUnspecified() && bound.Is4() != a.Is4() || s.network == "udp4" && !a.Is4() || s.network == "udp6" && a.Is4() {
		return p, nil, os.NewSyscallError("sendto", syscall.EAFNOSUPPORT)
	}
	src, via, err := h.source(bound, a)
	if err != nil {
		return p, nil, err
	}
	p.Src = netip.AddrPortFrom(src, s.local.Port())
	p.Payload = bytes.Clone(b)
	if len(b) > maxPayload || via != nil && p.size() > via.link.cfg.MTU {
		return p, nil, os.NewSyscallError("sendto", syscall.EMSGSIZE)
	}
	return p, via, nil
}

func (h *Host) source(bound, dst netip.Addr) (netip.Addr, *Interface, error) {
	if h.owns(dst) {
		if !bound.IsUnspecified() {
			return bound, nil, nil
		}
		return dst, nil, nil
	}
	via, src, ok := h.route(bound, dst)
	if !ok || bound.IsLoopback() {
		return src, nil, os.NewSyscallError("sendto", syscall.ENETUNREACH)
	}
	return src, via, nil
}

func loopback(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
