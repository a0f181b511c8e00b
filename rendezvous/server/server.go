// Package server is the rendezvous node: peers register at it, and it passes
// the messages of a call between two of them. The same UDP sockets answer STUN
// and hand TURN to whoever serves it.
//
// Most callers open their sockets, make a [Server] and run it:
//
//	node, err := server.New(server.Config{Identity: id, Conns: conns})
//	err = node.Run(ctx)
//
// A relay server beside it reads and writes [Server.TURN](i), the TURN part of
// socket i. Two IP addresses with two ports each among the sockets make the
// node answer the tests of RFC 5780.
//
// Guarantees. A peer's identity is the key it proved in TLS. One program per
// key is registered; where a second one registers, the first is told and
// disconnected. Every queue, map and stream is bounded, and so is the rate of
// what anybody may ask for: by sender, by pair, by source network and by callee
// (see [Limits]); what is too much is answered with "limited" or dropped, and
// costs others nothing. Nothing is stored for who is offline, nothing about a
// call outlives it, and no address of a peer is logged. Keys of QUIC's stateless
// reset and of its tokens come from the identity, so that the clients of a node
// that restarted learn it from its first packet (RFC 9000 section 10.3).
//
// Limits. One node is one process; several do not know of each other. On a
// socket bound to the unspecified address, STUN and QUIC answer from the address
// that was asked, TURN from the one that the system picks. STUN over TCP is not
// served.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// Config says what a node serves and to whom.
type Config struct {
	Identity *sallyport.Identity // required

	// Conns are the UDP sockets. The server reads them while it runs; closing
	// them afterwards is the caller's part.
	Conns []net.PacketConn
	// Advertise says how the world reaches Conns[i], where that is not the
	// socket's own address. It is shorter than Conns, or has zero values, where
	// there is nothing to say.
	Advertise []netip.AddrPort

	// Relays are handed out first, in this order.
	Relays []StaticRelay
	// Mint makes a credential from a relay's secret that ends when the relay's
	// clock reads expires. Nil: no relay is handed out.
	Mint func(secret []byte, user string, expires time.Time) (username, password string)
	// ProbeRelay tries a volunteer's relay from outside before it is listed,
	// and every minute after that. Nil: no volunteer is listed.
	ProbeRelay func(ctx context.Context, relay rendezvous.Relay) error

	NoRendezvous bool // serve STUN and TURN only
	NoSTUN       bool // serve no STUN Binding

	Limits Limits
	Logger *slog.Logger // nil is silent
}

// StaticRelay is a relay that this node's operator runs, with this node's clock.
type StaticRelay struct {
	Name  string
	ID    sallyport.PeerID // zero if it is nobody's
	Realm string
	Addrs []netip.AddrPort // at most 8; an unspecified IP is that of this node, as the peer reached it
	// Secret returns the secret that credentials are minted with now.
	Secret func() []byte
}

// Server is a node.
type Server struct {
	cfg      Config
	log      *slog.Logger
	limits   *limiters
	sockets  []*socket
	registry *registry
	relays   *relayList
	stun     *stunServer
	counters counters

	mu      sync.Mutex // guards what follows
	running bool
	closed  bool
	stop    context.CancelFunc
	stopped chan struct{} // closed when Run has returned
}

// New checks cfg and returns a node that does nothing until Run.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Identity == nil:
		return nil, errors.New("rendezvous/server: Config.Identity is nil")
	case len(cfg.Conns) == 0:
		return nil, errors.New("rendezvous/server: Config.Conns is empty")
	case len(cfg.Advertise) > len(cfg.Conns):
		return nil, errors.New("rendezvous/server: Config.Advertise is longer than Config.Conns")
	}
	s := &Server{cfg: cfg, log: cfg.Logger, limits: newLimiters(cfg.Limits)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.registry = newRegistry(s.limits)
	s.relays = newRelayList(s)
	for i, conn := range cfg.Conns {
		s.sockets = append(s.sockets, s.newSocket(conn, s.advertised(i)))
	}
	s.stun = newSTUNServer(s)
	return s, nil
}

// advertised is how the world reaches Conns[i].
func (s *Server) advertised(i int) netip.AddrPort {
	if i < len(s.cfg.Advertise) && s.cfg.Advertise[i].IsValid() {
		return unmap(s.cfg.Advertise[i])
	}
	addr, _ := addrPort(s.cfg.Conns[i].LocalAddr())
	return addr
}

// Run serves until ctx ends or Close is called, and returns ctx's error or
// net.ErrClosed, or why a socket broke.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.start(func() { cancel(net.ErrClosed) }); err != nil {
		return err
	}
	defer close(s.stopped)
	var wg sync.WaitGroup
	for _, sock := range s.sockets {
		listener, err := sock.listen(s)
		if err != nil {
			cancel(fmt.Errorf("listening: %w", err))
			break
		}
		wg.Go(func() { cancel(s.accept(ctx, sock, listener)) })
	}
	<-ctx.Done()
	s.registry.closeAll()
	for _, sock := range s.sockets {
		sock.transport.Close()
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (s *Server) start(stop context.CancelFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.running:
		return errors.New("rendezvous/server: Run is called twice")
	}
	s.running, s.stop, s.stopped = true, stop, make(chan struct{})
	return nil
}

// Close ends Run, tells the peers that the node leaves, and waits.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	stop, stopped := s.stop, s.stopped
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped
	}
	for _, sock := range s.sockets {
		sock.turn.Close()
	}
	return nil
}

// TURN returns the TURN part of Conns[i]: STUN requests other than Binding and
// channel data (RFC 8656) that arrive there; what is written leaves from there.
// Reading must keep up: 256 packets wait, further ones are dropped. Its Close
// does not close Conns[i].
func (s *Server) TURN(i int) net.PacketConn { return s.sockets[i].turn }
