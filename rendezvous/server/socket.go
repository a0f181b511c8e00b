package server

import (
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport/internal/packet"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// socket is one of Config.Conns with its three parts. QUIC reads it; what is
// not QUIC is taken out on the way.
type socket struct {
	conn      net.PacketConn
	public    netip.AddrPort // how the world reaches it; the IP may be unspecified
	turn      *turnConn
	stun      func(b []byte, from netip.AddrPort, sock *socket)
	transport *quic.Transport
}

func (s *Server) newSocket(conn net.PacketConn, public netip.AddrPort) (*socket, error) {
	sock := &socket{conn: conn, public: public}
	sock.turn = newTURNConn(conn)
	sock.stun = func(b []byte, from netip.AddrPort, sock *socket) { s.stun.receive(b, from, sock) }
	return sock, nil
}

func (sock *socket) listen(s *Server) (*quic.Listener, error) {
	sock.transport = s.transport(&plainConn{PacketConn: sock.conn, sock: sock})
	return sock.transport.Listen(s.cfg.Identity.ServerTLS(rendezvous.Protocol), quicConfig)
}

func (sock *socket) close() {
	if sock.transport != nil {
		sock.transport.Close()
	}
}

// divert handles a datagram that is not QUIC's; b is valid during the call.
func (sock *socket) divert(b []byte, from netip.AddrPort) (diverted bool) {
	switch packet.Classify(b) {
	case packet.QUIC:
		return false
	case packet.STUN:
		if packet.ValidSTUN(b) != nil {
			return true
		}
		if isBinding(b) {
			sock.stun(b, from, sock)
			return true
		}
		sock.turn.deliver(b, from)
	case packet.ChannelData:
		sock.turn.deliver(b, from)
	}
	return true
}

// plainConn is what QUIC reads where nothing faster is at hand.
type plainConn struct {
	net.PacketConn
	sock *socket
}

func (c *plainConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.PacketConn.ReadFrom(b)
		if err != nil {
			return n, addr, err
		}
		from, ok := addrPort(addr)
		if ok && !c.sock.divert(b[:n], from) {
			return n, addr, nil
		}
	}
}

// SetReadBuffer passes on what QUIC asks for, where the socket knows how.
func (c *plainConn) SetReadBuffer(n int) error {
	if conn, ok := c.PacketConn.(interface{ SetReadBuffer(int) error }); ok {
		return conn.SetReadBuffer(n)
	}
	return nil
}

// SetWriteBuffer is like SetReadBuffer.
func (c *plainConn) SetWriteBuffer(n int) error {
	if conn, ok := c.PacketConn.(interface{ SetWriteBuffer(int) error }); ok {
		return conn.SetWriteBuffer(n)
	}
	return nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// addrPort reads a UDP address of whatever socket.
func addrPort(addr net.Addr) (netip.AddrPort, bool) {
	if a, ok := addr.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := unmap(a.AddrPort())
		return ap, ap.IsValid()
	}
	if addr == nil {
		return netip.AddrPort{}, false
	}
	ap, err := netip.ParseAddrPort(addr.String())
	return unmap(ap), err == nil
}
