package server

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/internal/packet"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	idleTimeout      = 45 * time.Second // three of the client's keepalives
	handshakeTimeout = 5 * time.Second
	maxStreams       = 48                     // of one peer at once: calls and requests
	streamWindow     = wire.CallBudget + 4096 // never an obstacle to one call
	connWindow       = 8 * streamWindow
)

var quicConfig = &quic.Config{
	HandshakeIdleTimeout:           handshakeTimeout,
	MaxIdleTimeout:                 idleTimeout,
	MaxIncomingStreams:             maxStreams,
	MaxIncomingUniStreams:          -1,
	InitialStreamReceiveWindow:     streamWindow,
	MaxStreamReceiveWindow:         streamWindow,
	InitialConnectionReceiveWindow: connWindow,
	MaxConnectionReceiveWindow:     connWindow,
	InitialPacketSize:              1200, // RFC 9000 section 14: any path carries it
	DisablePathMTUDiscovery:        true, // nothing here is long enough to profit
}

// connIDs makes connection IDs that cannot be taken for TURN channel data.
type connIDs struct{}

func (connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	id := packet.NewConnectionID()
	return quic.ConnectionIDFromBytes(id[:]), nil
}

func (connIDs) ConnectionIDLen() int { return packet.ConnectionIDSize }

// transport returns the QUIC side of a socket. Its keys survive a restart.
func (s *Server) transport(conn net.PacketConn) *quic.Transport {
	reset := quic.StatelessResetKey(s.cfg.Identity.DeriveKey("node stateless reset", len(quic.StatelessResetKey{})))
	token := quic.TokenGeneratorKey(s.cfg.Identity.DeriveKey("node token", len(quic.TokenGeneratorKey{})))
	return &quic.Transport{
		Conn:                  conn,
		ConnectionIDGenerator: connIDs{},
		StatelessResetKey:     &reset,
		TokenGeneratorKey:     &token,
		VerifySourceAddress:   s.underLoad,
		ConnContext:           s.admit,
	}
}

// underLoad asks for a Retry (RFC 9000 section 8.1.2) when handshakes come
// faster than what is normal, from one network or in all.
func (s *Server) underLoad(addr net.Addr) bool {
	from, ok := addrPort(addr)
	now := time.Now()
	return !ok || !s.limits.handshakes.allow(0, now, 1) || !s.limits.unverified.allow(s.limits.key(prefix(from)), now, 1)
}

var errTooMany = errors.New("too many connections")

// admit decides before any cryptography whether a connection may begin.
func (s *Server) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	from, ok := addrPort(info.RemoteAddr)
	if !ok || s.cfg.NoRendezvous || !s.registry.enter(prefix(from)) {
		s.counters.rejected.Add(1)
		return nil, errTooMany
	}
	context.AfterFunc(ctx, func() { s.registry.leave(prefix(from)) })
	return ctx, nil
}

// accept serves each connection until the listener or ctx ends.
func (s *Server) accept(ctx context.Context, sock *socket, listener *quic.Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := listener.Accept(ctx)
		if err != nil {
			return err
		}
		sessions.Go(func() { s.serve(ctx, sock, conn) })
	}
}

func (s *Server) serve(ctx context.Context, sock *socket, conn *quic.Conn) {
	defer conn.CloseWithError(wire.CodeClosed, "")
	id, err := sallyport.PeerIDFromTLS(conn.ConnectionState().TLS)
	if err != nil { // the handshake has checked it
		return
	}
	sess := newSession(s, sock, conn, id)
	sess.run(ctx)
}
