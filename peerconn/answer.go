package peerconn

import (
	"context"
	"errors"
	"fmt"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// takeCall answers one incoming call, or refuses it.
func (h *Host) takeCall(client *rendezvous.Client, call *rendezvous.Call) {
	offer, reason, err := h.judge(call)
	if err != nil {
		h.log.Info("call refused", "peer", call.Peer().Short(), "err", err)
		call.Refuse(reason)
		return
	}
	answer := h.answerCall
	if offer.Flags&flagRepair != 0 {
		answer = h.answerRepair
	}
	if err := answer(client, call, offer); err != nil {
		h.log.Info("call failed", "peer", call.Peer().Short(), "err", err)
		call.Refuse("busy")
	}
}

// judge opens the offer and decides whether to take the call; otherwise it
// returns what the caller is told, and why for ourselves.
func (h *Host) judge(call *rendezvous.Call) (offer *holepunch.Offer, reason string, err error) {
	dials := h.pending(call.Peer())
	allowed := h.cfg.Allow != nil && h.cfg.Allow(call.Peer())
	if !allowed && len(dials) == 0 && !h.knows(call.Peer()) {
		return nil, reasonNotAllowed, errors.New("not allowed")
	}
	offer, err = holepunch.OpenOffer(h.id, call.Peer(), call.Offer())
	if err != nil {
		return nil, "the offer cannot be read", err
	}
	if offer.Flags&flagRepair != 0 {
		return offer, "", nil
	}
	if !allowed && len(dials) == 0 {
		return nil, reasonNotAllowed, errors.New("not allowed but to repair a link")
	}
	if err := h.firstUse(offer); err != nil {
		return nil, "the offer was used before", err
	}
	if len(dials) > 0 && h.PeerID().Compare(call.Peer()) < 0 && offer.Flags&flagCallable != 0 {
		return nil, reasonCrossed, errors.New("our own dial crossed with it and goes first")
	}
	return offer, "", nil
}

// knows reports whether there is a route to the peer.
func (h *Host) knows(peer sallyport.PeerID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.routes {
		if r.peer == peer {
			return true
		}
	}
	return false
}

func (h *Host) firstUse(offer *holepunch.Offer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replays.Accept(offer)
}

// answerCall opens a route for the offer, has QUIC answer the first flight in
// it, and sends the answer. Openers leave at once, checks at knockTime.
func (h *Host) answerCall(client *rendezvous.Client, call *rendezvous.Call, offer *holepunch.Offer) error {
	reg, err := client.Ready(h.ctx)
	if err != nil {
		return err
	}
	h.stun.note(reg.NodeAddr, reg.Observed) // Ready returns before registered is told
	r, closeRoute, err := h.openRoute(offer.Caller, holepunch.SessionConfig{
		Secret: offer.Secret,
		Start:  h.knockTime(offer, reg),
	})
	if err != nil {
		return err
	}
	r.setOffer(offer)
	h.closeUnused(r, closeRoute)
	s := &signalling{h: h, r: r, call: call, offer: offer, relay: h.relay.use(r)}
	s.inject(offer.Flight...)
	answer := &holepunch.Answer{
		NodeRTT:    reg.RTT,
		Candidates: append(s.relay.warm(), h.candidates()...),
		Flight:     r.firstFlight(r.ctx),
	}
	sealed, err := holepunch.SealAnswer(h.id, offer, answer)
	if err != nil {
		closeRoute()
		return err
	}
	if err := call.Send(append([]byte{msgAnswer}, sealed...)); err != nil {
		closeRoute()
		return fmt.Errorf("sending the answer: %w", err)
	}
	r.openNarrow(call, nodePath(reg))
	s.learn(offer.Candidates)
	s.start(client)
	h.tasks.Go(func() { // ends with the call
		s.receive(r.ctx)
		close(r.callOver)
	})
	return nil
}

const (
	// maxSignalTime bounds what an offer can make us wait.
	maxSignalTime = time.Second
	// openerGrace is how much later the answer may come than expected without harm,
	// where openers have opened our NAT: the caller's checks get in and are answered at
	// once, so that waiting costs nothing then.
	openerGrace = 60 * time.Millisecond
	// sealingTime is about what QUIC and the sealing take until an answer leaves.
	sealingTime = time.Millisecond
)

// knockTime is when the callee's first checks leave. A check must not reach the
// caller's NAT before the caller has sent: plain Linux NATs without an input firewall
// keep the unexpected packet as a connection of their own, and the caller's packets to
// us then leave from another port than the one we were told. The caller sends when
// the answer arrives, one signalling time from now, half a round trip of each side to
// the node.
func (h *Host) knockTime(offer *holepunch.Offer, reg rendezvous.Registration) time.Time {
	wait := min((offer.NodeRTT+reg.RTT)/2, maxSignalTime) + sealingTime
	if h.sock.openerTTL() > 0 {
		wait += openerGrace
	}
	return time.Now().Add(wait)
}

// closeUnused ends the route of a caller who never completed a handshake, soon
// after the call ended or in any case when its time is over, and of one whose
// link has ended.
func (h *Host) closeUnused(r *route, closeRoute context.CancelFunc) {
	h.tasks.Go(func() {
		defer closeRoute()
		timer := time.NewTimer(h.cfg.dialTimeout())
		defer timer.Stop()
		over := r.callOver
		for {
			select {
			case <-r.linked:
				waitFor(h.ctx, r.link.Context().Done(), forever)
				waitFor(h.ctx, nil, routeLinger)
			case <-over:
				over = nil
				timer.Reset(orphanPatience)
				continue
			case <-timer.C:
			case <-r.ctx.Done():
			}
			return
		}
	})
}

const forever = 1<<63 - 1 // as a time limit
