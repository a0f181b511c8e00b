package peerconn

import (
	"context"
	"errors"
	"sync"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// Repair. Where all paths of a link are lost (the relay restarted, a NAT forgot its
// mappings, an address changed), the side that dialed calls again. The offer is
// that of the first call with new candidates and flagRepair: the callee finds the
// route by its nonce, and both sides check anew while QUIC, which notices nothing,
// goes through the node.

// flagRepair in an offer says that it belongs to a route that exists.
const flagRepair holepunch.OfferFlags = 1 << 1

const (
	repairFirst = 500 * time.Millisecond // from one attempt to the next, doubling
	repairMax   = 4 * time.Second
	// A relay that does not answer a refresh in this time is asked for a new
	// allocation.
	repairRefresh = time.Second
)

var errUnknownRoute = errors.New("there is no such link to repair")

// losePath notes that no path is usable. The caller holds the mutex.
func (r *route) losePath() {
	select {
	case r.lost <- struct{}{}:
	default:
	}
}

// markFound notes that a path was chosen. The caller holds the mutex.
func (r *route) markFound() {
	for _, c := range []chan struct{}{r.first, r.found} {
		select {
		case <-c:
		default:
			close(c)
		}
	}
}

// waitPath waits until a path is chosen; false if ctx ended first.
func (r *route) waitPath(ctx context.Context) bool {
	r.mu.Lock()
	found := r.found
	r.mu.Unlock()
	select {
	case <-found:
		return true
	case <-ctx.Done():
		return false
	}
}

// works reports whether some path is usable now.
func (r *route) works() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.paths() {
		if usable(s) {
			return true
		}
	}
	return false
}

// beginAgain gives up the path in use, which is dead, and checks everything anew
// from start on. What QUIC writes goes through the node meanwhile.
func (r *route) beginAgain(now, start time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.target.Load() != nil {
		from := r.current()
		r.target.Store(nil)
		r.hedge.Store(nil)
		r.active = Path{}
		r.found = make(chan struct{})
		r.onEvent(Event{Time: now, From: from, To: r.current(), Why: "all paths failed; calling the peer again"})
	}
	r.session.Restart(now, start)
	r.wake()
}

// repair calls the peer again whenever all paths are lost, until the link ends.
func (l *Link) repair(urls []sallyport.NodeURL) {
	for {
		select {
		case <-l.r.lost:
		case <-l.ctx.Done():
			return
		}
		for wait := repairFirst; !l.r.works() && l.ctx.Err() == nil; wait = min(2*wait, repairMax) {
			attempt, cancel := context.WithTimeout(l.ctx, repairMax)
			if err := l.callAgain(attempt, urls); err != nil {
				l.h.log.Info("link not repaired yet", "peer", l.Peer().Short(), "err", err)
			}
			cancel()
			waitFor(l.ctx, nil, wait)
		}
	}
}

// awaitRepair sees to it that the peer, who dialed, can call again when all paths
// are lost: often it is our common node that restarted. It runs until the link
// ends.
func (l *Link) awaitRepair() {
	for {
		select {
		case <-l.r.lost:
			l.h.nodes.poke(l.ctx)
		case <-l.ctx.Done():
			return
		}
	}
}

// callAgain places one call and waits until a path works or ctx ends.
func (l *Link) callAgain(ctx context.Context, urls []sallyport.NodeURL) error {
	h, r := l.h, l.r
	at, tried := h.nodes.firstReady(ctx, urls)
	if at.client == nil {
		return &DialError{Peer: r.peer, Err: ErrNoNode, Attempts: tried}
	}
	use := r.relays()
	use.verify(ctx)
	h.stun.note(at.reg.NodeAddr, at.reg.Observed)
	offer := r.repairOffer(time.Now())
	offer.NodeRTT = at.reg.RTT
	offer.Candidates = append(use.warm(), h.candidates()...)
	sealed, err := holepunch.SealOffer(h.id, offer)
	if err != nil {
		return err
	}
	s := &signalling{h: h, r: r, offer: offer, relay: use}
	if s.call, err = at.client.Call(ctx, r.peer, sealed); err != nil {
		return err
	}
	now := time.Now()
	r.openNarrow(s.call, nodePath(at.reg))
	r.beginAgain(now, now)
	s.start(at.client)
	return s.untilPath(ctx)
}

// untilPath waits until a path works, the call ends without one, or ctx ends.
func (s *signalling) untilPath(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.h.tasks.Go(func() { cancel(s.receive(s.r.ctx)) }) // ends with the call
	if s.r.waitPath(ctx) {
		return nil
	}
	return context.Cause(ctx)
}

// setOffer notes the offer that made the route.
func (r *route) setOffer(o *holepunch.Offer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offer = o
}

// repairOffer returns the route's offer, made new: later than the last one even
// if the clock was set back.
func (r *route) repairOffer(now time.Time) *holepunch.Offer {
	r.mu.Lock()
	defer r.mu.Unlock()
	offer := *r.offer
	offer.Flight, offer.Flags = nil, offer.Flags|flagRepair
	offer.Created = offer.Created.Add(time.Millisecond)
	if now.After(offer.Created) {
		offer.Created = now.Truncate(time.Millisecond)
	}
	r.offer = &offer
	return &offer
}

// answerRepair takes the call of a peer whose link to us lost all its paths.
func (h *Host) answerRepair(client *rendezvous.Client, call *rendezvous.Call, offer *holepunch.Offer) error {
	r := h.routeOfOffer(offer)
	if r == nil {
		return errUnknownRoute
	}
	reg, err := client.Ready(h.ctx)
	if err != nil {
		return err
	}
	h.stun.note(reg.NodeAddr, reg.Observed)
	s := &signalling{h: h, r: r, call: call, offer: offer, relay: r.relays()}
	now := time.Now()
	r.openNarrow(call, nodePath(reg))
	r.beginAgain(now, h.knockTime(offer, reg))
	answer := &holepunch.Answer{NodeRTT: reg.RTT, Candidates: append(s.relay.warm(), h.candidates()...)}
	sealed, err := holepunch.SealAnswer(h.id, offer, answer)
	if err != nil {
		return err
	}
	if err := call.Send(append([]byte{msgAnswer}, sealed...)); err != nil {
		return err
	}
	s.learn(offer.Candidates)
	s.start(client)
	h.tasks.Go(func() { s.receive(r.ctx) }) // ends with the call
	return nil
}

// routeOfOffer finds the route that a repair is for: of the same caller, nonce and
// secret, and not older than the last repair, so that a node cannot replay one.
func (h *Host) routeOfOffer(offer *holepunch.Offer) *route {
	for _, r := range h.allRoutes() {
		if r.takeRepair(offer) {
			return r
		}
	}
	return nil
}

func (r *route) takeRepair(offer *holepunch.Offer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.offer
	if known == nil || known.Caller != offer.Caller || known.Nonce != offer.Nonce || known.Secret != offer.Secret {
		return false
	}
	if !offer.Created.After(known.Created) {
		return false
	}
	r.offer = offer
	return true
}

// verify gives up the allocations whose relay does not know them any more, or
// does not answer.
func (u *relayUse) verify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, repairRefresh)
	defer cancel()
	var wg sync.WaitGroup
	for _, a := range u.joined() {
		wg.Go(func() {
			if a.Refresh(ctx) != nil {
				a.Close()
			}
		})
	}
	wg.Wait()
}
