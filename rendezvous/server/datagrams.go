package server

import (
	"net"
	"net/netip"
)

// datagrams reads and writes a socket. via is, on a socket that is bound to the
// unspecified address, the address of ours that a datagram came to, in the form
// in which the system wants it back to answer from there; nil otherwise.
type datagrams interface {
	read(b []byte) (n int, from netip.AddrPort, via []byte, err error)
	write(b []byte, to netip.AddrPort, via []byte) error
}

func newDatagrams(conn net.PacketConn) datagrams {
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return anyDatagrams{conn}
	}
	local, _ := addrPort(udp.LocalAddr())
	if local.Addr().IsUnspecified() && askForPacketInfo(udp) == nil {
		return &udpDatagrams{UDPConn: udp, oob: make([]byte, maxPacketInfo)}
	}
	return &udpDatagrams{UDPConn: udp}
}

// anyDatagrams is a socket of whatever kind, as an emulated one.
type anyDatagrams struct{ net.PacketConn }

func (d anyDatagrams) read(b []byte) (int, netip.AddrPort, []byte, error) {
	n, addr, err := d.ReadFrom(b)
	from, _ := addrPort(addr)
	return n, from, nil, err
}

func (d anyDatagrams) write(b []byte, to netip.AddrPort, _ []byte) error {
	_, err := d.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

// maxPacketInfo is room for one control message with an address.
const maxPacketInfo = 64

// udpDatagrams is the system's socket, read without garbage by one goroutine.
type udpDatagrams struct {
	*net.UDPConn
	oob []byte // nil where the socket is bound to one address
}

func (d *udpDatagrams) read(b []byte) (int, netip.AddrPort, []byte, error) {
	n, oobn, _, from, err := d.ReadMsgUDPAddrPort(b, d.oob)
	return n, unmap(from), d.oob[:oobn], err
}

func (d *udpDatagrams) write(b []byte, to netip.AddrPort, via []byte) error {
	_, _, err := d.WriteMsgUDPAddrPort(b, via, to)
	return err
}

// viaAddr is a peer's address and which of ours it talks to. QUIC keeps it and
// hands it back.
type viaAddr struct {
	netip.AddrPort
	via string
}

// Network is "udp".
func (a *viaAddr) Network() string { return "udp" }

// newAddr makes what QUIC is given as a peer's address.
func newAddr(from netip.AddrPort, via []byte) net.Addr {
	if len(via) == 0 {
		return net.UDPAddrFromAddrPort(from)
	}
	return &viaAddr{from, string(via)}
}

func splitAddr(addr net.Addr) (netip.AddrPort, []byte) {
	if a, ok := addr.(*viaAddr); ok {
		return a.AddrPort, []byte(a.via)
	}
	to, _ := addrPort(addr)
	return to, nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// addrPort reads a UDP address of whatever socket.
func addrPort(addr net.Addr) (netip.AddrPort, bool) {
	switch a := addr.(type) {
	case nil:
		return netip.AddrPort{}, false
	case *viaAddr:
		return a.AddrPort, true
	case interface{ AddrPort() netip.AddrPort }:
		ap := unmap(a.AddrPort())
		return ap, ap.IsValid()
	}
	ap, err := netip.ParseAddrPort(addr.String())
	return unmap(ap), err == nil
}
