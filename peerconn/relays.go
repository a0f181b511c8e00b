package peerconn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/relay"
	"github.com/sallyport-net/sallyport/rendezvous"
)

const (
	maxRelays     = 2               // allocations that a route asks for
	relayPatience = 5 * time.Second // for one relay to answer
	relayIdle     = 5 * time.Minute // an allocation that no route uses is given back
	// A callee whose caller brought a relay needs none of its own, unless nothing
	// works for this long.
	calleePatience = time.Second
)

// relays are the host's allocations, shared by its routes: a relay is only
// another sending point.
type relays struct {
	h *Host

	mu      sync.Mutex // guards what follows
	allocs  []*allocation
	inbound []relayInbound
	closed  bool
	taken   map[holepunch.Base]bool
	pending map[netip.AddrPort]chan struct{} // closed when the allocation at that server is decided
}

// relayInbound takes what a relay sends to our socket.
type relayInbound struct {
	base   holepunch.Base
	server netip.AddrPort
	take   func(b []byte, from netip.AddrPort) bool
}

// allocation is a relayed address that routes of this host share.
type allocation struct {
	*relay.Allocation
	base  holepunch.Base
	name  string
	out   *bundle
	users map[*relayUse]bool
	idle  *time.Timer
}

func newRelays(h *Host) *relays {
	return &relays{h: h, taken: make(map[holepunch.Base]bool), pending: make(map[netip.AddrPort]chan struct{})}
}

// take offers a packet of the socket to whichever allocation it belongs to.
func (m *relays) take(b []byte, from netip.AddrPort) bool {
	m.mu.Lock()
	inbound := m.inbound
	m.mu.Unlock()
	for _, in := range inbound {
		if in.server == from && in.take(b, from) {
			return true
		}
	}
	return false
}

func (a *allocation) candidate() holepunch.Candidate {
	return holepunch.Candidate{Kind: holepunch.Relayed, Addr: a.Relayed(), Via: a.name}
}

// join makes u a user of a; false if a is gone.
func (m *relays) join(a *allocation, u *relayUse) bool {
	m.mu.Lock()
	joined := slices.Contains(m.allocs, a) && u.r.ctx.Err() == nil
	if joined {
		a.idle.Stop()
		a.users[u] = true
	}
	m.mu.Unlock()
	if joined {
		u.permit(a, u.met())
		u.r.addBase(a.base, a, holepunch.BaseInfo{Via: a.name, Families: familyOf(a.Relayed().Addr())})
	}
	return joined
}

func (m *relays) release(u *relayUse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.allocs {
		if a.users[u] {
			delete(a.users, u)
			if len(a.users) == 0 {
				a.idle.Reset(relayIdle)
			}
		}
	}
}

// allocate asks one relay, at the first of its addresses that answers.
func (m *relays) allocate(ctx context.Context, o rendezvous.Relay, u *relayUse) (*allocation, error) {
	var failures []error
	for _, server := range o.Addrs {
		a, err := m.allocateAt(ctx, o, server, u.family(server))
		if err == nil {
			return a, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", server, err))
	}
	if len(failures) == 0 {
		return nil, errors.New("it has no address")
	}
	return nil, errors.Join(failures...)
}

// allocateAt shares the allocation that the host has at a server: a second one
// from the same socket would not be possible (RFC 8656 section 5: the 5-tuple).
func (m *relays) allocateAt(ctx context.Context, o rendezvous.Relay, server netip.AddrPort, family int) (*allocation, error) {
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	for {
		m.mu.Lock()
		a, pending := m.at(server), m.pending[server]
		if a == nil && pending == nil {
			m.pending[server] = make(chan struct{})
		}
		m.mu.Unlock()
		switch {
		case a != nil:
			return a, nil
		case pending == nil:
			defer m.decided(server)
			return m.allocateNew(ctx, o, server, family)
		}
		select {
		case <-pending:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// at returns the living allocation at a server, nil if none. The caller holds
// the mutex.
func (m *relays) at(server netip.AddrPort) *allocation {
	for _, a := range m.allocs {
		if a.Server() == server && a.Err() == nil {
			return a
		}
	}
	return nil
}

func (m *relays) decided(server netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.pending[server])
	delete(m.pending, server)
}

func (m *relays) allocateNew(ctx context.Context, o rendezvous.Relay, server netip.AddrPort, family int) (*allocation, error) {
	base, ok := m.takeBase()
	if !ok {
		return nil, errors.New("this host has too many allocations")
	}
	out := &bundle{sock: m.h.sock}
	alloc, err := relay.Allocate(ctx, relay.Config{
		Server:   server,
		Username: o.Username,
		Password: o.Password,
		Family:   family,
		Send:     out.send,
		Attach:   func(take func([]byte, netip.AddrPort) bool) { m.attach(base, server, take) },
		Receive: func(b []byte, from netip.AddrPort) {
			m.h.sock.deliver(holepunch.Path{Base: base, Remote: unmap(from)}, b)
		},
		Logger: m.h.cfg.Logger,
	})
	if err != nil {
		m.detach(base)
		return nil, err
	}
	a := &allocation{Allocation: alloc, base: base, name: relayName(o.Name), out: out, users: make(map[*relayUse]bool)}
	a.idle = time.AfterFunc(relayIdle, func() { m.closeIdle(a) })
	m.mu.Lock()
	closed := m.closed
	m.allocs = append(m.allocs, a)
	m.mu.Unlock()
	m.h.tasks.Go(func() { m.mourn(a) })
	if closed {
		a.Close()
		return nil, net.ErrClosed
	}
	return a, nil
}

// relayName makes a name that a stranger chose fit to be shown and signalled.
func relayName(s string) string {
	printable := func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}
	s = strings.Map(printable, s)
	return cmp.Or(s[:min(len(s), holepunch.MaxVia)], "relay")
}

const maxAllocations = 8

func (m *relays) takeBase() (holepunch.Base, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for b := holepunch.Base(1); b <= maxAllocations; b++ {
		if !m.taken[b] {
			m.taken[b] = true
			return b, true
		}
	}
	return 0, false
}

// attach routes what server sends to our socket to the allocation of a base.
func (m *relays) attach(base holepunch.Base, server netip.AddrPort, take func([]byte, netip.AddrPort) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inbound = append(slices.Clip(m.inbound), relayInbound{base, server, take})
}

func (m *relays) detach(base holepunch.Base) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.taken, base)
	m.inbound = slices.DeleteFunc(slices.Clone(m.inbound), func(in relayInbound) bool { return in.base == base })
}

// mourn waits for the end of an allocation and takes it from all routes.
func (m *relays) mourn(a *allocation) {
	<-a.Done()
	m.mu.Lock()
	m.allocs = slices.DeleteFunc(m.allocs, func(o *allocation) bool { return o == a })
	users := a.users
	a.users = nil
	a.idle.Stop()
	m.mu.Unlock()
	for u := range users {
		u.r.removeBase(a.base, a.Err())
	}
	m.detach(a.base)
}

func (m *relays) closeIdle(a *allocation) {
	m.mu.Lock()
	idle := len(a.users) == 0
	m.mu.Unlock()
	if idle {
		a.Close()
	}
}

// close gives all allocations back.
func (m *relays) close() {
	m.mu.Lock()
	m.closed = true
	allocs := slices.Clone(m.allocs)
	m.mu.Unlock()
	var wg sync.WaitGroup
	for _, a := range allocs {
		wg.Go(func() { a.Close() })
	}
	wg.Wait()
}
