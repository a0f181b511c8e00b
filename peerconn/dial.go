package peerconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// flagCallable in an offer says that the caller can be called back: when two
// dials cross, only then may the other side count on it.
const flagCallable holepunch.OfferFlags = 1 << 0

// reasonCrossed is how the side whose dial wins refuses the one that loses.
const reasonCrossed = "crossed"

const reasonNotAllowed = "this peer is not on the list of those who may call"

// dial is one Dial under way.
type dial struct {
	h     *Host
	peer  sallyport.PeerID
	start time.Time

	yielded chan *Link    // gets the peer's own link, where the two dials crossed
	over    chan struct{} // closed when the dial has ended
}

// Dial links to the peer of a ticket; Ticket{Peer: id} asks the host's own nodes.
// It returns as soon as the handshake is complete, which is usually before a
// real path was found: data flows through the node in small amounts until then
// (Link.Path says "node"), and the link moves by itself. Where no path is found
// within Config.DialTimeout, the link ends with a *DialError.
//
// A failed Dial returns a *DialError, which names everything that was tried and
// wraps ErrOffline, ErrRefused, ErrNoNode, ErrNoAnswer or the context's error.
// Where the peer dials this host at the same moment, both get the same link.
func (h *Host) Dial(ctx context.Context, to sallyport.Ticket) (*Link, error) {
	switch {
	case to.Peer == h.PeerID():
		return nil, &DialError{Peer: to.Peer, Err: errors.New("a host cannot dial itself")}
	case to.Peer.IsZero():
		return nil, &DialError{Peer: to.Peer, Err: errors.New("the ticket names no peer")}
	}
	ctx, cancel := context.WithTimeout(ctx, h.cfg.dialTimeout())
	defer cancel()
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()
	d := &dial{h: h, peer: to.Peer, start: time.Now(), yielded: make(chan *Link), over: make(chan struct{})}
	h.addDial(d)
	defer h.removeDial(d)
	nodes := to.Nodes
	if len(nodes) == 0 {
		nodes = h.cfg.Nodes
	}
	l, err := d.through(ctx, nodes)
	switch {
	case err != nil && h.isClosed():
		return nil, &DialError{Peer: to.Peer, Err: net.ErrClosed}
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return nil, &DialError{Peer: to.Peer, Err: context.Cause(ctx)}
	}
	return l, err
}

func (h *Host) addDial(d *dial) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials[d.peer] = append(h.dials[d.peer], d)
}

func (h *Host) removeDial(d *dial) {
	close(d.over)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials[d.peer] = slices.DeleteFunc(h.dials[d.peer], func(o *dial) bool { return o == d })
	if len(h.dials[d.peer]) == 0 {
		delete(h.dials, d.peer)
	}
}

// yield gives the dial the link that the peer made; false if it is over.
func (d *dial) yield(l *Link) bool {
	select {
	case d.yielded <- l:
		return true
	case <-d.over:
		return false
	}
}

// through asks one node after the other until one of them knows the peer.
func (d *dial) through(ctx context.Context, urls []sallyport.NodeURL) (*Link, error) {
	if len(urls) == 0 {
		return nil, &DialError{Peer: d.peer, Err: fmt.Errorf("%w: neither the ticket nor this host names one", ErrNoNode)}
	}
	failed := &DialError{Peer: d.peer, Err: ErrNoNode}
	left := slices.Clone(urls)
	for len(left) > 0 && ctx.Err() == nil {
		at, tried := d.h.nodes.firstReady(ctx, left)
		if at.client == nil {
			failed.Attempts = append(failed.Attempts, tried...)
			break
		}
		left = slices.DeleteFunc(left, func(u sallyport.NodeURL) bool { return u == at.url })
		l, why := d.throughNode(ctx, at)
		if why == nil {
			if l.r.calling {
				d.h.tasks.Go(func() { l.repair(urls) }) // ends with the link
			}
			return l, nil
		}
		failed.add(at.url, why)
		var node *rendezvous.NodeError
		if !errors.Is(why, ErrOffline) && !errors.As(why, &node) {
			break // the peer was reached: another node would not help
		}
	}
	return nil, failed
}

// add takes the outcome at one node into the error of the dial.
func (e *DialError) add(url sallyport.NodeURL, err error) {
	var at *DialError
	if errors.As(err, &at) {
		e.Attempts = append(e.Attempts, at.Attempts...)
		err = at.Err
	}
	e.Attempts = append(e.Attempts, nodeAttempt(url, err))
	var node *rendezvous.NodeError
	switch {
	case errors.As(err, &node):
		if !errors.Is(e.Err, ErrOffline) {
			e.Err = fmt.Errorf("%w: %w", ErrNoNode, err)
		}
	default:
		e.Err = err
	}
}

func nodeAttempt(url sallyport.NodeURL, err error) Attempt {
	var node *rendezvous.NodeError
	if errors.As(err, &node) {
		err = node.Err // it would name the node again
	}
	return Attempt{What: "node " + url.HostPort(), Why: err.Error()}
}

func (d *dial) throughNode(ctx context.Context, at readyNode) (*Link, error) {
	offer := holepunch.NewOffer(time.Now(), d.h.PeerID(), d.peer)
	d.h.stun.note(at.reg.NodeAddr, at.reg.Observed) // Ready returns before registered is told
	r, closeRoute, err := d.h.openRoute(d.peer, holepunch.SessionConfig{Secret: offer.Secret, Caller: true})
	if err != nil {
		return nil, err
	}
	l, err := d.call(ctx, at, offer, r)
	if err != nil || l.r != r { // or the peer's own dial went first
		closeRoute()
		return l, err
	}
	context.AfterFunc(l.Context(), func() { time.AfterFunc(routeLinger, closeRoute) })
	return l, nil
}

// routeLinger is how long a route outlives its link, to answer what the peer
// still sends.
const routeLinger = time.Second

// call places the call with QUIC's first flight in it, and waits for whichever
// decides: the handshake, the peer's own dial, or a failure.
func (d *dial) call(ctx context.Context, at readyNode, offer *holepunch.Offer, r *route) (*Link, error) {
	hctx, stopHandshake := context.WithCancel(ctx)
	defer stopHandshake()
	handshake := make(chan result)
	go func() { // ends with hctx
		conn, err := d.h.quic.Dial(hctx, r.virtual, d.h.linkTLS(d.peer), d.h.quicConfig())
		select {
		case handshake <- result{conn, err}:
		case <-hctx.Done():
			if conn != nil { // complete, but the dial was decided otherwise
				conn.CloseWithError(codeClosed, "")
			}
		}
	}()
	s, err := d.offer(ctx, at, offer, r)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { // ends with the call
		err := s.receive(d.h.ctx)
		close(r.callOver)
		ended <- err
	}()
	return d.wait(ctx, s, handshake, ended)
}

type result struct {
	conn *quic.Conn
	err  error
}

// offer seals what we know of ourselves and sends it; relays are asked for at
// the same time and told of later.
func (d *dial) offer(ctx context.Context, at readyNode, offer *holepunch.Offer, r *route) (*signalling, error) {
	h := d.h
	offer.NodeRTT = at.reg.RTT
	offer.Candidates = h.candidates()
	if h.cfg.Allow != nil {
		offer.Flags |= flagCallable
	}
	s := &signalling{h: h, r: r, offer: offer, relay: h.relay.use(r)}
	r.setOffer(offer)
	warm := s.relay.warm()
	offer.Candidates = append(warm, offer.Candidates...)
	offer.Flight = r.firstFlight(ctx)
	sealed, err := holepunch.SealOffer(h.id, offer)
	if err != nil {
		return nil, err
	}
	if s.call, err = at.client.Call(ctx, d.peer, sealed); err != nil {
		return nil, err
	}
	r.openNarrow(s.call, nodePath(at.reg))
	s.start(at.client)
	return s, nil
}

func nodePath(reg rendezvous.Registration) Path {
	return Path{Kind: PathNode, Remote: reg.NodeAddr, Via: "node " + reg.NodeAddr.String(), Transport: "udp", RTT: 0}
}

func (d *dial) wait(ctx context.Context, s *signalling, handshake chan result, ended chan error) (*Link, error) {
	crossed := false
	for {
		select {
		case res := <-handshake:
			if res.err == nil {
				return newLink(d.h, s.r, res.conn, time.Since(d.start)), nil
			}
			if !crossed {
				return nil, d.failed(s, handshakeError(ctx, res.err))
			}
			handshake = nil
		case err := <-ended:
			ended = nil
			if isCrossed(err) {
				crossed = true
				continue
			}
			if err := callError(err); err != nil {
				return nil, d.failed(s, err)
			}
			if !s.answered.Load() {
				return nil, d.failed(s, fmt.Errorf("%w: the call ended without one: %w", ErrNoAnswer, err))
			}
		case l := <-d.yielded:
			s.call.Close()
			return l, nil
		case <-ctx.Done():
			return nil, d.failed(s, handshakeError(ctx, context.Cause(ctx)))
		}
	}
}

func isCrossed(err error) bool {
	var refused *rendezvous.RefusedError
	return errors.As(err, &refused) && refused.Reason == reasonCrossed
}

// callError returns why the end of a call ends the dial; nil where the dial may
// still succeed by what was exchanged before.
func callError(err error) error {
	var node *rendezvous.NodeError
	switch {
	case errors.Is(err, ErrOffline), errors.Is(err, ErrRefused), errors.Is(err, rendezvous.ErrLimited), errors.As(err, &node):
		return err
	}
	return nil
}

// handshakeError says why QUIC's handshake failed in terms of the dial.
func handshakeError(ctx context.Context, err error) error {
	var idle *quic.IdleTimeoutError
	var slow *quic.HandshakeTimeoutError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &idle), errors.As(err, &slow):
		return ErrNoAnswer
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("the handshake failed: %w", err)
}

func (d *dial) failed(s *signalling, err error) error {
	s.call.Close()
	tried := attempts(s.r.reports())
	return &DialError{Peer: d.peer, Err: err, Attempts: append(tried, s.relay.attempts()...)}
}
