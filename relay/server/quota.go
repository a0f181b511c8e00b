package server

import (
	"net/netip"
	"sync"
)

// Quotas bound the allocations that live at one time. Zero is the default, negative is off.
type Quotas struct {
	PerUser   int // of one user, the part after the colon; default 16, refused with 486
	PerPrefix int // from one IPv4 /24 or IPv6 /56; default 256, refused with 486
	Total     int // of all; default 4096, refused with 508
	// PerAllocation bounds the permissions, and apart from them the channels, of one allocation;
	// default 256, refused with 508.
	PerAllocation int
}

func orDefault(n, def int) int {
	switch {
	case n == 0:
		return def
	case n < 0:
		return int(^uint(0) >> 1)
	}
	return n
}

func (q Quotas) withDefaults() Quotas {
	return Quotas{
		PerUser:       orDefault(q.PerUser, 16),
		PerPrefix:     orDefault(q.PerPrefix, 256),
		Total:         orDefault(q.Total, 4096),
		PerAllocation: orDefault(q.PerAllocation, 256),
	}
}

// prefixOf is the network that counts as one source: IPv4 /24, IPv6 /56.
func prefixOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 56
	}
	p, _ := addr.Prefix(bits) // the zero prefix for an invalid address
	return p
}

// ledger counts living allocations. Its maps hold only what has one, so Total bounds them.
// mu guards all but limits.
type ledger struct {
	limits   Quotas
	mu       sync.Mutex
	total    int
	byUser   map[string]int
	byPrefix map[netip.Prefix]int
}

// slot is one counted allocation; it is released exactly once.
type slot struct {
	ledger *ledger
	user   string
	prefix netip.Prefix
	once   sync.Once
}

// take counts one more allocation, or says by which code it is refused.
func (l *ledger) take(user string, from netip.Addr) (*slot, int) {
	prefix := prefixOf(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.total >= l.limits.Total:
		return nil, codeCapacity
	case l.byUser[user] >= l.limits.PerUser, l.byPrefix[prefix] >= l.limits.PerPrefix:
		return nil, codeQuota
	}
	l.total++
	l.byUser[user]++
	l.byPrefix[prefix]++
	return &slot{ledger: l, user: user, prefix: prefix}, 0
}

// release gives the slot back; a nil slot has nothing to give.
func (s *slot) release() {
	if s != nil {
		s.once.Do(func() { s.ledger.release(s) })
	}
}

func (l *ledger) release(s *slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.byUser[s.user]--; l.byUser[s.user] == 0 {
		delete(l.byUser, s.user)
	}
	if l.byPrefix[s.prefix]--; l.byPrefix[s.prefix] == 0 {
		delete(l.byPrefix, s.prefix)
	}
}

func (l *ledger) count() (total, users, prefixes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, len(l.byUser), len(l.byPrefix)
}
