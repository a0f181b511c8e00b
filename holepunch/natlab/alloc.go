package natlab

import (
	"net/netip"
	"slices"
	"time"
)

// randomTries is how many random ports are tried before the range is walked.
const randomTries = 32

// lo is Min as an int.
func (r PortRange) lo() int { return int(r.Min) }

// allocate picks a free external endpoint for a new mapping of inside. remote matters only where
// ports are overloaded.
func (n *NAT) allocate(now time.Time, inside, remote netip.AddrPort) (netip.AddrPort, bool) {
	i := n.pick(inside.Addr())
	free := func(port uint16) bool {
		return n.free(now, n.tupleOf(netip.AddrPortFrom(n.cfg.External[i], port), remote))
	}
	var port uint16
	var ok bool
	switch n.cfg.Allocation {
	case Preserving:
		port, ok = n.preserve(i, inside, free)
	case Sequential:
		port, ok = n.step(i, 1, free)
	case Delta:
		port, ok = n.step(i, n.cfg.Delta, free)
	case Random:
		port, ok = n.random(n.cfg.Ports, free)
	case RandomRange:
		port, ok = n.random(PortRange{n.window[i], n.window[i] + uint16(n.cfg.BlockSize-1)}, free)
	case Block:
		port, ok = n.fromBlock(i, inside.Addr(), free)
	}
	return netip.AddrPortFrom(n.cfg.External[i], port), ok
}

// pick chooses the index of the external address for an inside host.
func (n *NAT) pick(inside netip.Addr) int {
	if len(n.cfg.External) == 1 {
		return 0
	}
	if n.cfg.Pooling == Arbitrary {
		return n.rng.IntN(len(n.cfg.External))
	}
	b := inside.As4()
	return (int(b[0]) + int(b[1]) + int(b[2]) + int(b[3])) % len(n.cfg.External)
}

// preserve keeps the port. A masquerading Linux first reuses a port that the same inside endpoint
// has towards another remote, if the tuple is unique with it.
func (n *NAT) preserve(i int, inside netip.AddrPort, free func(uint16) bool) (uint16, bool) {
	if h := n.hosts[inside.Addr()]; h != nil && n.cfg.Stealing {
		for _, m := range slices.Clone(h.order) { // free may remove expired ones
			e := m.tuple.external
			if m.flow.inside == inside && e.Addr() == n.cfg.External[i] && free(e.Port()) {
				return e.Port(), true
			}
		}
	}
	if free(inside.Port()) {
		return inside.Port(), true
	}
	return n.random(n.cfg.Ports, free)
}

// step walks the range from the port given last, by delta and around the end.
func (n *NAT) step(i, delta int, free func(uint16) bool) (uint16, bool) {
	size, lo := n.cfg.Ports.size(), n.cfg.Ports.lo()
	at := n.last[i] - lo
	for range size {
		at = ((at+delta)%size + size) % size
		if free(uint16(lo + at)) {
			n.last[i] = lo + at
			return uint16(lo + at), true
		}
	}
	// A step that shares a factor with the size of the range misses ports: take any.
	return n.random(n.cfg.Ports, free)
}

func (n *NAT) random(r PortRange, free func(uint16) bool) (uint16, bool) {
	for range randomTries {
		if port := uint16(r.lo() + n.rng.IntN(r.size())); free(port) {
			return port, true
		}
	}
	start := n.rng.IntN(r.size())
	for k := range r.size() {
		if port := uint16(r.lo() + (start+k)%r.size()); free(port) {
			return port, true
		}
	}
	return 0, false
}

// fromBlock takes a port from the inside host's block, and gives it a block first if it has none.
func (n *NAT) fromBlock(i int, inside netip.Addr, free func(uint16) bool) (uint16, bool) {
	id, ok := n.blockOf(i, inside)
	if !ok {
		return 0, false
	}
	port, ok := n.random(n.blockAt(id.Port()), free)
	if ok { // free may have removed the host's last mapping, and the block with it
		n.host(inside).block = id
		n.blocks[id] = inside
	}
	return port, ok
}

// blockOf returns the block of an inside host, or a free one.
func (n *NAT) blockOf(i int, inside netip.Addr) (netip.AddrPort, bool) {
	if h := n.hosts[inside]; h != nil && h.block.IsValid() {
		return h.block, true
	}
	count := n.cfg.Ports.size() / n.cfg.BlockSize
	start := n.rng.IntN(count)
	for k := range count {
		first := n.cfg.Ports.Min + uint16((start+k)%count*n.cfg.BlockSize)
		id := netip.AddrPortFrom(n.cfg.External[i], first)
		if _, taken := n.blocks[id]; !taken {
			return id, true
		}
	}
	return netip.AddrPort{}, false
}

func (n *NAT) blockAt(first uint16) PortRange {
	return PortRange{first, first + uint16(n.cfg.BlockSize-1)}
}
