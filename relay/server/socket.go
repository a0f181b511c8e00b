package server

import (
	"net"
	"net/netip"
)

// addrPortConn is what *net.UDPConn offers to read and write without garbage.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

// socket is a net.PacketConn that speaks netip.
type socket struct {
	net.PacketConn
	fast addrPortConn // nil where the conn is no *net.UDPConn
}

func newSocket(conn net.PacketConn) socket {
	fast, _ := conn.(addrPortConn)
	return socket{PacketConn: conn, fast: fast}
}

// read returns one datagram and its source, unmapped; the zero AddrPort if that is no UDP address.
func (s socket) read(b []byte) (int, netip.AddrPort, error) {
	if s.fast != nil {
		n, from, err := s.fast.ReadFromUDPAddrPort(b)
		return n, unmap(from), err
	}
	n, from, err := s.ReadFrom(b)
	return n, addrPortOf(from), err
}

func (s socket) write(b []byte, to netip.AddrPort) (int, error) {
	if s.fast != nil {
		return s.fast.WriteToUDPAddrPort(b, to)
	}
	return s.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

func unmap(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4In6() {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}

// addrPortOf converts at the library's edge; the zero AddrPort for what is not a UDP address.
func addrPortOf(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok && u != nil {
		return unmap(u.AddrPort())
	}
	return netip.AddrPort{}
}
