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
	datagrams
	public    netip.AddrPort // how the world reaches it; the IP may be unspecified
	turn      *turnConn
	binding   func(b []byte, from netip.AddrPort, via []byte)
	transport *quic.Transport
}

// maxDatagram is what UDP can carry: relayed packets are larger than QUIC's own.
const maxDatagram = 65535

func (s *Server) newSocket(conn net.PacketConn, public netip.AddrPort) *socket {
	sock := &socket{datagrams: newDatagrams(conn), public: public}
	sock.turn = newTURNConn(conn, sock.datagrams)
	sock.binding = func(b []byte, from netip.AddrPort, via []byte) { s.stun.receive(b, from, via, sock) }
	sock.transport = s.transport(&quicConn{PacketConn: conn, sock: sock, buf: make([]byte, maxDatagram)})
	return sock
}

func (sock *socket) listen(s *Server) (*quic.Listener, error) {
	return sock.transport.Listen(s.cfg.Identity.ServerTLS(rendezvous.Protocol), quicConfig)
}

// divert handles a datagram that is not QUIC's; b and via are valid during the
// call.
func (sock *socket) divert(b []byte, from netip.AddrPort, via []byte) (diverted bool) {
	switch packet.Classify(b) {
	case packet.QUIC:
		return false
	case packet.STUN:
		switch {
		case packet.ValidSTUN(b) != nil:
		case isBinding(b):
			sock.binding(b, from, via)
		default:
			sock.turn.deliver(b, from)
		}
	case packet.ChannelData:
		sock.turn.deliver(b, from)
	}
	return true
}

// quicConn is the socket as QUIC sees it. It reads one datagram at a time:
// nothing here is bulk but TURN, which does not come through QUIC.
type quicConn struct {
	net.PacketConn
	sock *socket
	buf  []byte // used by ReadFrom, which QUIC calls from one goroutine
}

// ReadFrom returns the next datagram that is QUIC's.
func (c *quicConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, via, err := c.sock.read(c.buf)
		if err != nil {
			return 0, nil, err
		}
		if from.IsValid() && !c.sock.divert(c.buf[:n], from, via) {
			return copy(b, c.buf[:n]), newAddr(from, via), nil
		}
	}
}

// WriteTo sends to an address that ReadFrom returned.
func (c *quicConn) WriteTo(b []byte, to net.Addr) (int, error) {
	addr, via := splitAddr(to)
	if err := c.sock.write(b, addr, via); err != nil {
		return 0, err
	}
	return len(b), nil
}

// SetReadBuffer passes on what QUIC asks for, where the socket knows how.
func (c *quicConn) SetReadBuffer(n int) error {
	if conn, ok := c.PacketConn.(interface{ SetReadBuffer(int) error }); ok {
		return conn.SetReadBuffer(n)
	}
	return nil
}

// SetWriteBuffer is like SetReadBuffer.
func (c *quicConn) SetWriteBuffer(n int) error {
	if conn, ok := c.PacketConn.(interface{ SetWriteBuffer(int) error }); ok {
		return conn.SetWriteBuffer(n)
	}
	return nil
}
