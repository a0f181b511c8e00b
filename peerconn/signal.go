package peerconn

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// Messages of a call, after the offer, begin with one byte that says what
// follows.
const (
	msgAnswer = 1 // a sealed holepunch.Answer, once, from the callee
	msgUpdate = 2 // a sealed holepunch.Update
	msgData   = 3 // one QUIC datagram, which is encrypted already
)

const (
	flightPatience = 20 * time.Millisecond // for QUIC to write its first flight
	maxFlightSize  = 2600                  // bytes that fit into an offer beside its candidates
	// A call is kept this long after a real path was found: the other side may
	// have none yet.
	callLinger = 1500 * time.Millisecond
)

// firstFlight waits for what QUIC writes first and takes it for the offer or
// answer: one datagram, see initialPacket. What exceeds that or the message is left
// to be sent on its own.
func (r *route) firstFlight(ctx context.Context) [][]byte {
	r.mu.Lock()
	came := r.narrow.came
	r.mu.Unlock()
	if came != nil {
		waitFor(ctx, came, flightPatience)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.narrow.takeFlight()
}

func waitFor(ctx context.Context, what <-chan struct{}, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-what:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// takeFlight takes as many datagrams off the front as fit one message.
func (n *narrow) takeFlight() [][]byte {
	size, count := 0, 0
	for count < len(n.held) && count < holepunch.MaxFlight && size+len(n.held[count]) <= maxFlightSize {
		size += len(n.held[count])
		count++
	}
	flight := n.held[:count:count]
	n.held = n.held[count:]
	return flight
}

// openNarrow lets datagrams flow through call from now on, as path.
func (r *route) openNarrow(call *rendezvous.Call, path Path) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.narrow.path = path
	r.narrow.call = call
	r.narrow.send = func(d []byte) error {
		return call.Send(append([]byte{msgData}, d...))
	}
	for _, d := range r.narrow.takeHeld() {
		r.narrow.write(d)
	}
}

// closeNarrow ends the way through call, unless a later call took its place.
func (r *route) closeNarrow(call *rendezvous.Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.narrow.call == call {
		r.narrow.send = nil
	}
}

// signalling is the call of one route: what the two sides tell each other
// through the node while they punch.
type signalling struct {
	h     *Host
	r     *route
	call  *rendezvous.Call
	offer *holepunch.Offer
	relay *relayUse // our relays for this route

	answered atomic.Bool // the answer has come
}

// inject gives QUIC the datagrams of an offer, answer or data message.
func (s *signalling) inject(flight ...[]byte) {
	for _, d := range flight {
		s.h.sock.inbox.put(d, s.r.virtual)
	}
}

// receive handles messages until the call ends, and returns why.
func (s *signalling) receive(ctx context.Context) error {
	for {
		msg, err := s.call.Receive(ctx)
		if err != nil {
			return err
		}
		if err := s.handle(msg); err != nil {
			s.h.log.Debug("message in a call dropped", "peer", s.r.peer.Short(), "err", err)
		}
	}
}

func (s *signalling) handle(msg []byte) error {
	if len(msg) == 0 {
		return holepunch.ErrMalformed
	}
	body := msg[1:]
	switch msg[0] {
	case msgAnswer:
		a, err := holepunch.OpenAnswer(s.h.id, s.offer, body)
		if err != nil {
			return err
		}
		s.answered.Store(true)
		s.learn(a.Candidates)
		s.inject(a.Flight...)
	case msgUpdate:
		u, err := holepunch.OpenUpdate(s.h.id, s.offer, body)
		if err != nil {
			return err
		}
		s.learn(u.Candidates)
		s.inject(u.Flight...)
	case msgData:
		s.inject(body)
	}
	return nil // an unknown kind is from a later version
}

// learn has the peer's candidates checked. Checks from our relays open the
// relays for the peer's answers as well.
func (s *signalling) learn(cands []holepunch.Candidate) {
	cands = s.h.acceptable(cands)
	s.relay.meet(cands)
	s.r.addRemote(cands)
}

// tell sends candidates that were not in the offer or answer.
func (s *signalling) tell(cands ...holepunch.Candidate) error {
	sealed, err := holepunch.SealUpdate(s.h.id, s.offer, &holepunch.Update{Candidates: cands})
	if err != nil {
		return err
	}
	return s.call.Send(append([]byte{msgUpdate}, sealed...))
}

// start runs what goes on beside the handshake, for as long as the route lives.
func (s *signalling) start(client *rendezvous.Client) {
	s.h.tasks.Go(func() { s.linger(s.r.ctx) })
	s.h.tasks.Go(func() { s.relay.allocate(s.r.ctx, client, s) })
}

// linger keeps the call open for as long as it may be of use, then closes it.
func (s *signalling) linger(ctx context.Context) {
	if s.r.waitPath(ctx) {
		waitFor(ctx, nil, callLinger)
	}
	s.r.closeNarrow(s.call)
	s.call.Close()
}
