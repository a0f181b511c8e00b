package natlab

import (
	"slices"
	"time"
)

// idle reports whether something used last at the given time has outlived the idle lifetime.
// REQ-5: "A NAT UDP mapping timer MUST NOT expire in less than two minutes"; many do.
func (n *NAT) idle(now, used time.Time) bool {
	return n.cfg.Lifetime > 0 && now.Sub(used) >= n.cfg.Lifetime
}

func (n *NAT) expired(now time.Time, m *mapping) bool {
	return n.idle(now, m.used) || n.cfg.AbsoluteLifetime > 0 && now.Sub(m.created) >= n.cfg.AbsoluteLifetime
}

// live returns the mapping that owns t, or nil; an expired one is removed.
func (n *NAT) live(now time.Time, t tuple) *mapping {
	m := n.tuples[t]
	if m != nil && n.expired(now, m) {
		n.remove(m)
		return nil
	}
	return m
}

// free reports whether a new mapping can have t.
func (n *NAT) free(now time.Time, t tuple) bool {
	until, ok := n.stolen[t]
	return n.live(now, t) == nil && (!ok || !now.Before(until))
}

// full reports whether the session table has no room, after a sweep if that can help.
func (n *NAT) full(now time.Time) bool {
	if n.cfg.MaxSessions < 0 || n.sessions < n.cfg.MaxSessions {
		return false
	}
	if now.After(n.lastSweep) {
		n.sweep(now)
	}
	return n.sessions >= n.cfg.MaxSessions
}

func (n *NAT) sweepIfDue(now time.Time) {
	if !now.Before(n.nextSweep) {
		n.sweep(now)
	}
}

// sweep removes all that has expired. It runs at most every quarter of the shortest lifetime, so
// its cost is spread over the packets in between.
func (n *NAT) sweep(now time.Time) {
	for _, m := range n.flows {
		if n.expired(now, m) {
			n.remove(m)
			continue
		}
		n.sweepPeers(now, m)
	}
	for t, until := range n.stolen {
		if !now.Before(until) {
			delete(n.stolen, t)
		}
	}
	every := stealFor
	for _, d := range []time.Duration{n.cfg.Lifetime, n.cfg.AbsoluteLifetime} {
		if d > 0 {
			every = min(every, d)
		}
	}
	n.lastSweep, n.nextSweep = now, now.Add(every/4)
}

func (n *NAT) sweepPeers(now time.Time, m *mapping) {
	for remote, at := range m.peers {
		if n.idle(now, at) {
			delete(m.peers, remote)
			n.sessions--
		}
	}
	for a, at := range m.addrs {
		if n.idle(now, at) {
			delete(m.addrs, a)
		}
	}
}

func (n *NAT) remove(m *mapping) {
	delete(n.flows, m.flow)
	delete(n.tuples, m.tuple)
	n.sessions -= len(m.peers)
	a := m.flow.inside.Addr()
	h := n.hosts[a]
	h.mappings--
	if n.cfg.Stealing {
		h.order = slices.DeleteFunc(h.order, func(o *mapping) bool { return o == m })
	}
	if h.mappings == 0 {
		if h.block.IsValid() {
			delete(n.blocks, h.block)
		}
		delete(n.hosts, a)
	}
}
