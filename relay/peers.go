package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"
)

const (
	maxPeers      = 256             // channels and, apart from them, permissions of one allocation
	permitBatch   = 16              // addresses in one CreatePermission
	bindRetry     = 5 * time.Second // a failed ChannelBind is tried again after that
	maxIdleRounds = 4               // refresh rounds without a packet before a peer is given up
)

// bindState is the state of a channel.
//
//	binding ──success──▶ bound
//	   └────error──▶ unbound ──(next packet, after bindRetry)──▶ a new binding
type bindState int32

const (
	binding bindState = iota // ChannelBind is on its way; data goes in Send indications
	bound                    // confirmed: data goes as ChannelData; lasts until given up
	unbound                  // refused or unanswered
)

// channel is a channel to one peer. number, peer and done never change; err is set before done closes.
type channel struct {
	peer   netip.AddrPort
	number uint16
	state  atomic.Int32
	used   atomic.Bool // carried something since the last refresh
	idle   int         // rounds without use; of the refreshing goroutine
	failed time.Time   // when it got unbound; set before done closes
	err    error
	done   chan struct{}
}

func (c *channel) touch() {
	if !c.used.Load() { // a load is cheaper than a contended store
		c.used.Store(true)
	}
}

// permission is what [Allocation.Permit] got.
type permission struct {
	used atomic.Bool
	idle int
}

// peers holds the channels and permissions of an allocation; mu guards all fields.
type peers struct {
	mu        sync.RWMutex
	byPeer    map[netip.AddrPort]*channel
	byNumber  map[uint16]*channel
	permitted map[netip.Addr]*permission
	next      uint16
}

func newPeers() peers {
	return peers{
		byPeer:    make(map[netip.AddrPort]*channel),
		byNumber:  make(map[uint16]*channel),
		permitted: make(map[netip.Addr]*permission),
		next:      firstChannel,
	}
}

func (p *peers) get(peer netip.AddrPort) *channel {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byPeer[peer]
}

func (p *peers) numbered(number uint16) *channel {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byNumber[number]
}

// claim returns the peer's channel. fresh: it is new and the caller must bind it.
func (p *peers) claim(peer netip.AddrPort) (c *channel, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.byPeer[peer]
	if old != nil && !old.retry() {
		return old, false, nil
	}
	c = &channel{peer: peer, done: make(chan struct{})}
	c.used.Store(true)
	if old != nil { // the server may have bound the old number: keep to it
		c.number = old.number
	} else if c.number, err = p.number(); err != nil {
		return nil, false, err
	}
	p.byPeer[peer], p.byNumber[c.number] = c, c
	return c, true, nil
}

func (c *channel) retry() bool {
	return bindState(c.state.Load()) == unbound && time.Since(c.failed) >= bindRetry
}

// number picks a channel number that is not in use.
func (p *peers) number() (uint16, error) {
	if len(p.byNumber) >= maxPeers {
		return 0, fmt.Errorf("%w: more than %d peers on one allocation", ErrPeer, maxPeers)
	}
	for {
		n := p.next
		if p.next++; p.next > lastChannel {
			p.next = firstChannel
		}
		if p.byNumber[n] == nil {
			return n, nil
		}
	}
}

func (p *peers) drop(c *channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byPeer[c.peer] == c {
		delete(p.byPeer, c.peer)
		delete(p.byNumber, c.number)
	}
}

// Permit asks the server to let packets from addrs, any port, through to us (CreatePermission,
// RFC 8656 §9) and keeps the permission. It waits for the answer. The error is an [*Error],
// [ErrTimeout] or ctx's; [ErrForbidden] where the server relays to one of addrs for nobody.
func (a *Allocation) Permit(ctx context.Context, addrs ...netip.Addr) error {
	for len(addrs) > 0 {
		batch := addrs[:min(len(addrs), permitBatch)]
		addrs = addrs[len(batch):]
		if err := a.permit(ctx, batch); err != nil {
			return fmt.Errorf("permitting a peer: %w", err)
		}
		if err := a.peers.remember(batch); err != nil {
			return err
		}
	}
	return nil
}

func (a *Allocation) permit(ctx context.Context, addrs []netip.Addr) error {
	attrs := make([]stun.Setter, 0, len(addrs))
	for _, addr := range addrs {
		attrs = append(attrs, peerAttr(netip.AddrPortFrom(addr.Unmap(), 0)))
	}
	_, err := a.do(ctx, stun.MethodCreatePermission, attrs...)
	return err
}

func (p *peers) remember(addrs []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range addrs {
		addr = addr.Unmap()
		if p.permitted[addr] == nil {
			if len(p.permitted) >= maxPeers {
				return fmt.Errorf("%w: more than %d permissions on one allocation", ErrPeer, maxPeers)
			}
			p.permitted[addr] = new(permission)
		}
		p.permitted[addr].used.Store(true)
	}
	return nil
}

// Bind gets a channel to peer (ChannelBind, RFC 8656 §12), which also permits it, and waits until
// the server has confirmed. [Allocation.WriteTo] does the same without waiting.
func (a *Allocation) Bind(ctx context.Context, peer netip.AddrPort) error {
	c, err := a.bind(netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
	if err != nil {
		return err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("binding a channel: %w", ctx.Err())
	case <-a.done:
		return a.Err()
	}
}

// bind makes sure that a ChannelBind for peer was sent at least once.
func (a *Allocation) bind(peer netip.AddrPort) (*channel, error) {
	if !peer.IsValid() || peer.Port() == 0 || peer.Addr().Zone() != "" || peer.Addr().Is4() != a.relayed.Addr().Is4() {
		return nil, fmt.Errorf("%w: %v", ErrPeer, peer)
	}
	c, fresh, err := a.peers.claim(peer)
	if err != nil || !fresh {
		return c, err
	}
	r, err := a.begin(stun.MethodChannelBind, c.attrs()...)
	if err != nil {
		c.conclude(err)
		return c, nil
	}
	if !a.spawn(func() { a.await(c, r) }) {
		r.first.end()
		c.conclude(a.Err())
	}
	return c, nil
}

// spawn runs f beside the allocation, unless that has ended.
func (a *Allocation) spawn(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return false
	}
	a.work.Go(f) // ends with life
	return true
}

func (c *channel) attrs() []stun.Setter {
	return []stun.Setter{
		raw(stun.AttrChannelNumber, byte(c.number>>8), byte(c.number), 0, 0),
		peerAttr(c.peer),
	}
}

// await waits for the answer to a ChannelBind.
func (a *Allocation) await(c *channel, r *request) {
	_, err := r.finish(a.life)
	c.conclude(err)
	if errors.Is(err, ErrMismatch) {
		a.lost(err)
	}
}

// conclude ends the state binding.
func (c *channel) conclude(err error) {
	if err != nil {
		c.failed, c.err = time.Now(), fmt.Errorf("binding a channel: %w", err)
		c.state.Store(int32(unbound))
	} else {
		c.state.Store(int32(bound))
	}
	close(c.done)
}
