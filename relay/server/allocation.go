package server

import (
	"net"
	"net/netip"
	"time"
)

// What follows mirrors pion's permissions and channels, told by its events, so that the data plane
// need not go through pion.

func (a *allocation) channelPeer(number uint16) (netip.AddrPort, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	peer, ok := a.peers[number]
	return peer, ok
}

func (a *allocation) channelTo(peer netip.AddrPort) (uint16, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	number, ok := a.channels[peer]
	return number, ok
}

func (a *allocation) isPermitted(addr netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.permitted[addr]
}

// hasRoom says whether a permission for addr and, unless it is 0, a binding of channel are within
// the limit; what is there already may be refreshed.
func (a *allocation) hasRoom(addr netip.Addr, channel uint16) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if _, bound := a.peers[channel]; channel != 0 && !bound && len(a.peers) >= a.limit {
		return false
	}
	return a.permitted[addr] || len(a.permitted) < a.limit
}

func (a *allocation) permissionChanged(addr netip.Addr, granted bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if granted {
		a.permitted[addr] = true
	} else {
		delete(a.permitted, addr)
	}
}

func (a *allocation) channelChanged(number uint16, peer netip.AddrPort, bound bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if bound {
		a.peers[number], a.channels[peer] = peer, number
	} else {
		delete(a.peers, number)
		delete(a.channels, peer)
	}
}

// LocalAddr is the relayed address as advertised.
func (a *allocation) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(a.relayed) }

// SetDeadline and its kin are not used by pion.
func (a *allocation) SetDeadline(t time.Time) error      { return a.sock.SetDeadline(t) }
func (a *allocation) SetReadDeadline(t time.Time) error  { return a.sock.SetReadDeadline(t) }
func (a *allocation) SetWriteDeadline(t time.Time) error { return a.sock.SetWriteDeadline(t) }

// eventAllocation finds the allocation an event of pion is about: the client's, and still the one
// at that relayed address.
func (l *listener) eventAllocation(client, relayed net.Addr) *allocation {
	a := l.alloc(addrPortOf(client))
	if a == nil || a.relayed != addrPortOf(relayed) {
		return nil
	}
	return a
}

func (l *listener) permissionEvent(client, relayed net.Addr, ip net.IP, granted bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if a := l.eventAllocation(client, relayed); a != nil && ok {
		a.permissionChanged(addr.Unmap(), granted)
	}
}

func (l *listener) channelEvent(client, relayed, peer net.Addr, number uint16, bound bool) {
	if a := l.eventAllocation(client, relayed); a != nil {
		a.channelChanged(number, addrPortOf(peer), bound)
	}
}
