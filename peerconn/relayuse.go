package peerconn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// relayUse is one route's part in the relays.
type relayUse struct {
	relays *relays
	r      *route

	mu       sync.Mutex // guards what follows
	tried    []Attempt
	families holepunch.Families // those the peer has addresses of; zero: not known yet
	peers    []netip.Addr       // the peer's addresses, which our relays let in
}

// use makes a route's part. It lasts as long as the route.
func (m *relays) use(r *route) *relayUse {
	u := &relayUse{relays: m, r: r}
	r.mu.Lock()
	r.relayUse = u
	r.mu.Unlock()
	context.AfterFunc(r.ctx, func() { m.release(u) })
	return u
}

func (r *route) relays() *relayUse {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.relayUse
}

// warm adds the allocations that live already to the route, and returns them as
// candidates.
func (u *relayUse) warm() []holepunch.Candidate {
	if u.relays.h.cfg.Policy == PolicyDirectOnly {
		return nil
	}
	m := u.relays
	m.mu.Lock()
	allocs := slices.Clone(m.allocs)
	m.mu.Unlock()
	var cands []holepunch.Candidate
	for _, a := range allocs {
		if a.Err() == nil && m.join(a, u) {
			cands = append(cands, a.candidate())
		}
	}
	return cands
}

func familyOf(a netip.Addr) holepunch.Families {
	if a.Unmap().Is4() {
		return holepunch.IPv4
	}
	return holepunch.IPv6
}

// meet notes what the peer can be reached at.
func (u *relayUse) meet(cands []holepunch.Candidate) {
	u.mu.Lock()
	var fresh []netip.Addr
	for _, c := range cands {
		u.families |= familyOf(c.Addr.Addr())
		if a := c.Addr.Addr(); len(u.peers) < maxPermitted && !slices.Contains(u.peers, a) {
			u.peers = append(u.peers, a)
			fresh = append(fresh, a)
		}
	}
	u.mu.Unlock()
	for _, a := range u.joined() {
		u.permit(a, fresh)
	}
}

// met returns the peer's addresses so far.
func (u *relayUse) met() []netip.Addr {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.peers)
}

// maxPermitted bounds the addresses of one peer that a relay is asked to let in.
const maxPermitted = 16

// joined returns the allocations that the route uses.
func (u *relayUse) joined() []*allocation {
	m := u.relays
	m.mu.Lock()
	defer m.mu.Unlock()
	var mine []*allocation
	for _, a := range m.allocs {
		if a.users[u] {
			mine = append(mine, a)
		}
	}
	return mine
}

// permit has the relay let the peer in, one address at a time: the relay refuses
// some, private ones most of all, and that must not concern the others.
func (u *relayUse) permit(a *allocation, addrs []netip.Addr) {
	for _, addr := range addrs {
		if addr.Is4() == a.Relayed().Addr().Is4() {
			u.relays.h.tasks.Go(func() { // ends with the relay's answer or the route
				if err := a.Permit(u.r.ctx, addr); err != nil {
					u.relays.h.log.Debug("permission at a relay", "relay", a.name, "err", err)
				}
			})
		}
	}
}

// family returns the address family of a relayed address at server: that of the
// server, unless the peer has only the other one.
func (u *relayUse) family(server netip.AddrPort) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.families == holepunch.IPv4:
		return 4
	case u.families == holepunch.IPv6:
		return 6
	case server.Addr().Is4():
		return 4
	}
	return 6
}

// allocate gets relayed addresses for the route and tells the peer of them.
func (u *relayUse) allocate(ctx context.Context, client *rendezvous.Client, s *signalling) {
	if !u.wanted(ctx, s) {
		return
	}
	offered, err := client.Relays(ctx)
	if err != nil {
		u.failed("relays", fmt.Errorf("asking the node for relays: %w", err))
		return
	}
	if len(offered) == 0 {
		u.failed("relays", errors.New("the node offers none"))
	}
	next := make(chan rendezvous.Relay, len(offered))
	for _, o := range offered {
		next <- o
	}
	close(next)
	var wg sync.WaitGroup
	for range maxRelays {
		wg.Go(func() {
			for o := range next {
				if u.allocateAt(ctx, o, s) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// wanted reports whether this side should get a relay of its own: the caller
// always, the callee where the caller brings none or hides nothing works.
func (u *relayUse) wanted(ctx context.Context, s *signalling) bool {
	h := u.relays.h
	u.relays.mu.Lock()
	warm := len(u.relays.allocs) > 0
	u.relays.mu.Unlock()
	switch {
	case h.cfg.Policy == PolicyDirectOnly || warm:
		return false
	case h.cfg.Policy == PolicyRelayOnly || s.offer.Caller == h.PeerID():
		return true
	}
	waitFor(ctx, u.r.first, calleePatience)
	select {
	case <-u.r.first:
		return false
	default:
		return ctx.Err() == nil
	}
}

func (u *relayUse) allocateAt(ctx context.Context, o rendezvous.Relay, s *signalling) bool {
	a, err := u.relays.allocate(ctx, o, u)
	if err != nil {
		u.failed("relay "+relayName(o.Name), err)
		return false
	}
	if !u.relays.join(a, u) {
		return false
	}
	if err := s.tell(a.candidate()); err != nil {
		u.relays.h.log.Debug("telling the peer of a relay", "relay", a.name, "err", err)
	}
	return true
}

func (u *relayUse) failed(what string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tried = append(u.tried, Attempt{What: what, Why: err.Error()})
}

// attempts returns what was tried in vain.
func (u *relayUse) attempts() []Attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.tried)
}
