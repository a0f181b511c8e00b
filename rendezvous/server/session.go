package server

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	firstFrame   = 5 * time.Second  // for the first frame of a stream, whole
	helloTimeout = 10 * time.Second // for the control stream
)

// session is one peer's connection.
type session struct {
	server   *Server
	socket   *socket
	conn     *quic.Conn
	id       sallyport.PeerID
	key      uint64  // of the peer's buckets
	instance [8]byte // guarded by the registry

	greeted atomic.Bool
	control atomic.Pointer[control]
	placed  atomic.Int32 // calls that this peer placed and that are not over
	inbox   inbox
}

func newSession(s *Server, sock *socket, conn *quic.Conn, id sallyport.PeerID) *session {
	return &session{server: s, socket: sock, conn: conn, id: id, key: s.limits.key(id)}
}

// observed is where the node sees the peer now.
func (s *session) observed() netip.AddrPort {
	addr, _ := addrPort(s.conn.RemoteAddr())
	return addr
}

// run serves the peer's streams until the connection ends.
func (s *session) run(ctx context.Context) {
	if !s.server.registry.add(s) {
		s.conn.CloseWithError(wire.CodeLeaving, "node is leaving")
		return
	}
	var streams sync.WaitGroup
	defer streams.Wait()
	defer s.conn.CloseWithError(wire.CodeClosed, "")
	defer s.server.registry.remove(s)
	hello := time.AfterFunc(helloTimeout, func() {
		if !s.greeted.Load() {
			s.broken("no hello")
		}
	})
	defer hello.Stop()
	for {
		stream, err := s.conn.AcceptStream(ctx)
		if ctx.Err() != nil {
			s.conn.CloseWithError(wire.CodeLeaving, "node is leaving")
		}
		if err != nil {
			return
		}
		streams.Go(func() { s.handle(ctx, stream) })
	}
}

// broken ends a session whose peer does not keep to the protocol.
func (s *session) broken(what string) {
	s.conn.CloseWithError(wire.CodeProtocol, what)
}

// strike disconnects a peer that goes on although it was told that it is
// limited. It may come back, which costs it more than it costs us.
func (s *session) strike() {
	if !s.server.limits.strikes.allow(s.key, time.Now(), 1) {
		s.conn.CloseWithError(wire.CodeLimited, "too many calls or requests")
	}
}

// handle reads the first frame of a stream, which says what it is for.
func (s *session) handle(ctx context.Context, stream *quic.Stream) {
	stream.SetReadDeadline(time.Now().Add(firstFrame))
	reader := wire.NewReader(stream)
	kind, payload, err := reader.Next()
	if err != nil {
		stream.CancelRead(wire.CodeProtocol)
		stream.CancelWrite(wire.CodeProtocol)
		return
	}
	switch kind {
	case wire.TypeHello:
		s.serveControl(ctx, stream, reader, payload)
	case wire.TypeCall:
		s.placeCall(stream, reader, payload)
	case wire.TypePresent:
		s.answer(stream, s.presence(payload))
	case wire.TypeRelaysRq:
		s.answer(stream, s.listRelays(payload))
	default:
		s.broken("unknown frame")
	}
}

// answer sends the only frame of a request's answer; nil is a broken request.
func (s *session) answer(stream *quic.Stream, b []byte) {
	if b == nil {
		s.broken("malformed request")
		return
	}
	stream.CancelRead(wire.CodeClosed)
	stream.TryWriteAll(b) // a failure is the end of the connection
	stream.Close()
}

// serveControl registers the peer and answers its pings.
func (s *session) serveControl(ctx context.Context, stream *quic.Stream, reader *wire.Reader, payload []byte) {
	hello, err := wire.ParseHello(payload)
	if err != nil || s.greeted.Swap(true) {
		s.broken("malformed or second hello")
		return
	}
	if hello.Flags&wire.FlagCallable != 0 && !s.register(hello) {
		return
	}
	now := time.Now()
	control := &control{stream: stream}
	s.control.Store(control)
	control.write(wire.Welcome{Observed: s.observed(), Time: now, STUN: s.server.stun.addrs(s)}.Append(nil))
	if hello.Volunteer != nil {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { s.server.relays.volunteer(ctx, s, hello, control) })
	}
	s.pings(control, reader)
}

func (s *session) register(hello wire.Hello) bool {
	old, ok := s.server.registry.register(s, hello.Instance, hello.Flags&wire.FlagYield != 0)
	if !ok {
		s.conn.CloseWithError(wire.CodeTaken, "another program is registered with this key")
		return false
	}
	if old != nil {
		s.server.log.Info("registration taken over", "peer", s.id.Short())
		old.conn.CloseWithError(wire.CodeTakenOver, "another program registered with this key")
	}
	return true
}

// pings answers until the control stream ends, and with it the session.
func (s *session) pings(control *control, reader *wire.Reader) {
	defer s.conn.CloseWithError(wire.CodeClosed, "control stream ended")
	control.stream.SetReadDeadline(time.Time{})
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			return
		}
		ping, err := wire.ParsePing(payload)
		now := time.Now()
		if kind != wire.TypePing || err != nil {
			s.broken("malformed ping")
			return
		}
		if !s.server.limits.messages.allow(s.key, now, 1) {
			s.conn.CloseWithError(wire.CodeLimited, "too many pings")
			return
		}
		control.write(wire.Pong{Seq: ping.Seq, Observed: s.observed(), Time: now}.Append(nil))
	}
}

// nudge sends what a living peer acknowledges at once.
func (s *session) nudge() {
	if c := s.control.Load(); c != nil {
		c.write(wire.Pong{Observed: s.observed(), Time: time.Now()}.Append(nil))
	}
}

// control is the sending side of a control stream.
type control struct {
	mu     sync.Mutex // orders the writes
	stream *quic.Stream
}

// write queues a frame; a peer that does not read loses the connection, as its
// window bounds what may wait.
func (c *control) write(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stream.TryWriteAll(b) != nil {
		c.stream.CancelRead(wire.CodeLimited)
	}
}

// presence answers a Present frame.
func (s *session) presence(payload []byte) []byte {
	ids, err := wire.ParsePresent(payload)
	if err != nil {
		return nil
	}
	if !s.server.limits.requests.allow(s.key, time.Now(), 1) {
		return s.limited("requests")
	}
	here := make(wire.Presence, len(ids))
	for i, id := range ids {
		here[i] = s.server.registry.find(id) != nil
	}
	return here.Append(nil)
}

func (s *session) listRelays(payload []byte) []byte {
	if wire.ParseRelaysRequest(payload) != nil {
		return nil
	}
	now := time.Now()
	if !s.server.limits.requests.allow(s.key, now, 1) {
		return s.limited("requests")
	}
	return s.server.relays.pick(s, now).Append(nil)
}

func (s *session) limited(what string) []byte {
	s.strike()
	return wire.End{Code: wire.EndLimited, Reason: "too many " + what}.Append(nil)
}
