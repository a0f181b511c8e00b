package rendezvous

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	defaultKeepAlive = 15 * time.Second
	idleTimeout      = 45 * time.Second
	handshakeTimeout = 4 * time.Second
	welcomeTimeout   = 10 * time.Second
	pongTimeout      = 10 * time.Second
	firstFrame       = 10 * time.Second // for the first frame of a stream that the node opened
	minPatience      = 500 * time.Millisecond
	streamWindow     = wire.CallBudget + 4096 // never an obstacle to one call
	connWindow       = 16 * streamWindow
)

// session is one connection to the node. One goroutine, run, owns it; others
// open streams on it and ask it to suspect the node.
type session struct {
	client       *Client
	conn         *quic.Conn
	control      *quic.Stream // written by run only
	registration atomic.Pointer[Registration]
	frames       chan frame    // from the control stream to run
	suspicion    chan struct{} // a call got no answer: is the node alive?
	seq          uint32
}

type frame struct {
	kind    wire.Type
	payload []byte
}

func (c *Client) quicConfig() *quic.Config {
	streams := int64(maxHandlers)
	if c.cfg.OnCall == nil {
		streams = -1
	}
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout,
		MaxIdleTimeout:                 idleTimeout,
		MaxIncomingStreams:             streams,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindow,
		InitialPacketSize:              1200, // RFC 9000 section 14: any path carries it
		DisablePathMTUDiscovery:        true, // nothing here is long enough to profit
	}
}

// serve keeps one session and reports whether it got registered and why it
// ended. A session that is not the first one of this program leaves the place
// to another program that registered with the same key meanwhile.
func (c *Client) serve(ctx context.Context, first bool) (registered bool, err error) {
	conn, err := c.cfg.DialContext(ctx, c.cfg.Node.HostPort(),
		c.cfg.Identity.ClientTLS(c.cfg.Node.ID, wire.Protocol), c.quicConfig())
	if err != nil {
		return false, c.nodeError(err)
	}
	s := &session{client: c, conn: conn, frames: make(chan frame), suspicion: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer conn.CloseWithError(wire.CodeClosed, "")
	defer cancel()
	if s.control, err = s.open(c.hello(first)); err != nil {
		return false, err
	}
	readers.Go(func() { s.readControl(ctx) })
	if c.cfg.OnCall != nil {
		readers.Go(func() { s.acceptCalls(ctx, &readers) })
	}
	c.update(func() { c.current, c.fault = s, nil })
	err = s.run(ctx)
	c.update(func() { c.current = nil })
	return s.registration.Load() != nil, c.nodeError(err)
}

func (c *Client) hello(first bool) []byte {
	hello := wire.Hello{Instance: c.instance, Time: time.Now()}
	if c.cfg.OnCall != nil {
		hello.Flags |= wire.FlagCallable
	}
	if !first {
		hello.Flags |= wire.FlagYield
	}
	if v := c.cfg.Volunteer; v != nil {
		hello.Volunteer = &wire.Volunteer{Name: v.Name, Realm: v.Realm, Secret: v.Secret, Addrs: v.Addrs}
	}
	return hello.Append(nil)
}

// open opens a stream and writes its first bytes, without waiting for anything.
func (s *session) open(b []byte) (*quic.Stream, error) {
	stream, err := s.conn.OpenStream()
	if err == nil {
		err = stream.TryWriteAll(b)
	}
	var limit quic.StreamLimitReachedError
	switch {
	case err == nil:
		return stream, nil
	case errors.As(err, &limit):
		return nil, ErrLimited
	case errors.Is(err, quic.ErrWouldBlock):
		stream.CancelWrite(wire.CodeClosed)
		stream.CancelRead(wire.CodeClosed)
		return nil, ErrLimited
	}
	return nil, s.failure(err)
}

// failure says what an error of a stream means. Where the connection is lost,
// streams may know it a little before the connection's context does.
func (s *session) failure(err error) error {
	if s.conn.Context().Err() != nil {
		err = context.Cause(s.conn.Context())
	}
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok && !app.Remote && app.ErrorCode == wire.CodeClosed {
		return net.ErrClosed
	}
	return s.client.nodeError(err)
}

// run is the session's life after the handshake.
func (s *session) run(ctx context.Context) error {
	keepAlive := s.client.cfg.KeepAlive
	if keepAlive <= 0 {
		keepAlive = defaultKeepAlive
	}
	timer := time.NewTimer(welcomeTimeout)
	defer timer.Stop()
	waiting := true // for a Welcome or a Pong, until timer fires
	urgent := false // and it was a call that asked
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.conn.Context().Done():
			return context.Cause(s.conn.Context())
		case f := <-s.frames:
			sign, err := s.handle(f)
			if err != nil {
				s.conn.CloseWithError(wire.CodeProtocol, err.Error())
				return err
			}
			if sign && waiting {
				waiting, urgent = false, false
				timer.Reset(keepAlive)
			}
		case <-s.suspicion:
			if s.registration.Load() != nil && !urgent {
				waiting, urgent = true, true
				s.ping()
				timer.Reset(2*s.patience() + time.Second)
			}
		case <-timer.C:
			if waiting {
				s.conn.CloseWithError(wire.CodeGone, "no answer")
				return errSilent
			}
			waiting = true
			s.ping()
			timer.Reset(pongTimeout)
		}
	}
}

func (s *session) ping() {
	s.seq++
	s.control.TryWriteAll(wire.Ping{Seq: s.seq}.Append(nil)) // a failure shows as silence
}

// patience is how long an answer may take before the node is suspected.
func (s *session) patience() time.Duration {
	return max(minPatience, 4*s.conn.ConnectionStats().SmoothedRTT)
}

// handle acts on a frame of the control stream and reports whether it is the
// sign of life that was waited for.
func (s *session) handle(f frame) (sign bool, err error) {
	switch f.kind {
	case wire.TypeWelcome:
		w, err := wire.ParseWelcome(f.payload)
		if err != nil || s.registration.Load() != nil {
			return false, errProtocol
		}
		s.registered(w)
		return true, nil
	case wire.TypePong:
		p, err := wire.ParsePong(f.payload)
		if err != nil {
			return false, errProtocol
		}
		s.observed(p)
		return p.Seq == s.seq, nil
	case wire.TypeListed:
		l, err := wire.ParseListed(f.payload)
		if err != nil {
			return false, errProtocol
		}
		if notify := s.client.cfg.OnVolunteer; notify != nil {
			notify(VolunteerStatus{Addrs: l.Addrs, Reason: l.Reason})
		}
		return false, nil
	}
	return false, errProtocol
}

func (s *session) registered(w wire.Welcome) {
	node := remoteAddr(s.conn)
	s.publish(Registration{
		Observed: w.Observed,
		NodeAddr: node,
		RTT:      s.conn.ConnectionStats().SmoothedRTT,
		NodeTime: w.Time,
		STUN:     atNode(w.STUN, node.Addr()),
	})
}

// observed publishes the registration anew if this peer's address changed.
func (s *session) observed(p wire.Pong) {
	reg := s.registration.Load()
	if reg == nil || reg.Observed == p.Observed {
		return
	}
	fresh := *reg
	fresh.Observed, fresh.NodeTime, fresh.RTT = p.Observed, p.Time, s.conn.ConnectionStats().SmoothedRTT
	s.publish(fresh)
}

func (s *session) publish(reg Registration) {
	s.client.update(func() { s.registration.Store(&reg) })
	if notify := s.client.cfg.OnRegistered; notify != nil {
		notify(reg)
	}
}

// atNode puts the node's own IP where an address has none, and drops doubles.
func atNode(addrs []netip.AddrPort, node netip.Addr) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		if a.Addr().IsUnspecified() {
			a = netip.AddrPortFrom(node, a.Port())
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func remoteAddr(conn *quic.Conn) netip.AddrPort {
	if a, ok := conn.RemoteAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// readControl hands the control stream's frames to run until the stream ends.
func (s *session) readControl(ctx context.Context) {
	reader := wire.NewReader(s.control)
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			s.conn.CloseWithError(wire.CodeProtocol, "control stream ended")
			return
		}
		select {
		case s.frames <- frame{kind, payload}:
		case <-ctx.Done():
			return
		}
	}
}

// acceptCalls takes the streams that the node opens.
func (s *session) acceptCalls(ctx context.Context, wg *sync.WaitGroup) {
	for {
		stream, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		wg.Go(func() { s.incoming(stream) })
	}
}

func (s *session) incoming(stream *quic.Stream) {
	stream.SetReadDeadline(time.Now().Add(firstFrame))
	reader := wire.NewReader(stream)
	kind, payload, err := reader.Next()
	offer, parseErr := wire.ParseCall(payload)
	if err != nil || kind != wire.TypeCall || parseErr != nil {
		stream.CancelRead(wire.CodeProtocol)
		stream.CancelWrite(wire.CodeProtocol)
		return
	}
	call := newCall(s, stream, reader, offer)
	call.incoming = true
	select {
	case s.client.handlers <- struct{}{}:
	default:
		call.Refuse("busy")
		return
	}
	go func() { // ends with OnCall, which the callee's code owns
		defer func() { <-s.client.handlers }()
		s.client.cfg.OnCall(call)
	}()
}
