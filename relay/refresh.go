package relay

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// refreshEvery is below the 5 minutes that a permission lasts (RFC 8656 §9.2) by more than a whole
// transaction may take; channels (10 minutes) and the allocation are refreshed in the same round.
const refreshEvery = 4 * time.Minute

// retryEvery is the pause before a round that was not answered is tried again.
const retryEvery = time.Second

// keep refreshes until the allocation ends.
func (a *Allocation) keep() {
	confirmed := time.Now()
	timer := time.NewTimer(a.pause())
	defer timer.Stop()
	for {
		select {
		case <-a.life.Done():
			return
		case <-timer.C:
		}
		lifetime := a.getLifetime()
		err := a.round(a.life)
		switch {
		case err == nil:
			confirmed = time.Now()
			timer.Reset(a.pause())
		case a.life.Err() != nil:
			return
		case isFinal(err) || time.Since(confirmed) > lifetime:
			a.lost(err)
			return
		default:
			timer.Reset(retryEvery)
		}
	}
}

func (a *Allocation) pause() time.Duration { return min(refreshEvery, a.getLifetime()/2) }

// isFinal reports whether err says that the server has no such allocation for us any more.
func isFinal(err error) bool { return errors.Is(err, ErrMismatch) || errors.Is(err, ErrUnauthorized) }

// Refresh asks the server now whether the allocation lives, and prolongs it. [ErrMismatch]: the
// server does not know it, and it is over.
func (a *Allocation) Refresh(ctx context.Context) error {
	if err := a.Err(); err != nil {
		return err
	}
	err := a.refresh(ctx)
	if isFinal(err) {
		a.lost(err)
	}
	return err
}

func (a *Allocation) refresh(ctx context.Context) error {
	m, err := a.do(ctx, stun.MethodRefresh)
	if err != nil {
		return err
	}
	if d, ok := readLifetime(m); ok && d > 0 {
		a.setLifetime(d)
	}
	return nil
}

// round refreshes the allocation, then everything that was used since the last round.
func (a *Allocation) round(ctx context.Context) error {
	if err := a.refresh(ctx); err != nil {
		return err
	}
	channels, addrs := a.peers.active()
	for len(addrs) > 0 {
		batch := addrs[:min(len(addrs), permitBatch)]
		addrs = addrs[len(batch):]
		if err := a.repermit(ctx, batch); err != nil {
			return err
		}
	}
	for _, c := range channels {
		if err := a.rebind(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// repermit renews permissions; one that is refused is given up, without harm to the others.
func (a *Allocation) repermit(ctx context.Context, addrs []netip.Addr) error {
	err := a.permit(ctx, addrs)
	var refused *Error
	if !errors.As(err, &refused) || isFinal(err) {
		return err
	}
	if len(addrs) == 1 {
		a.peers.forget(addrs[0])
		return nil
	}
	for i := range addrs {
		if err := a.repermit(ctx, addrs[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (a *Allocation) rebind(ctx context.Context, c *channel) error {
	_, err := a.do(ctx, stun.MethodChannelBind, c.attrs()...)
	var refused *Error
	if errors.As(err, &refused) && !isFinal(err) {
		a.peers.drop(c)
		return nil
	}
	return err
}

func (p *peers) forget(addr netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.permitted, addr)
}

// active lists what needs a refresh and drops what carried nothing for maxIdleRounds.
func (p *peers) active() (channels []*channel, addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for peer, c := range p.byPeer {
		state := bindState(c.state.Load())
		if state == binding {
			continue
		}
		if c.idle++; c.used.Swap(false) {
			c.idle = 0
		}
		if c.idle >= maxIdleRounds || state == unbound && c.idle > 0 {
			delete(p.byPeer, peer)
			delete(p.byNumber, c.number)
		} else if state == bound {
			channels = append(channels, c)
		}
	}
	for addr, permitted := range p.permitted {
		if permitted.idle++; permitted.used.Swap(false) {
			permitted.idle = 0
		}
		if permitted.idle >= maxIdleRounds {
			delete(p.permitted, addr)
		} else {
			addrs = append(addrs, addr)
		}
	}
	return channels, addrs
}
