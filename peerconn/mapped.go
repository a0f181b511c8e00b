package peerconn

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

const (
	// The nodes' connections keep the mapping open; asking again notices one that
	// changed without them.
	stunAgain  = 25 * time.Second
	maxMapped  = 8 // observed addresses kept
	stunServer = 4 // addresses asked
)

// stunWatch knows how the outside sees our socket: the nodes say it with each
// registration, and STUN on the same socket covers the address family that the
// connection to the node does not use.
type stunWatch struct {
	h      *Host
	client holepunch.STUNClient

	mu       sync.Mutex                        // guards what follows
	observed map[netip.AddrPort]netip.AddrPort // by the server that saw it
	order    []netip.AddrPort                  // servers, latest first
	watching map[netip.AddrPort]bool
}

func newSTUNWatch(h *Host) *stunWatch {
	return &stunWatch{
		h:        h,
		client:   holepunch.STUNClient{RTO: 200 * time.Millisecond},
		observed: make(map[netip.AddrPort]netip.AddrPort),
		watching: make(map[netip.AddrPort]bool),
	}
}

// registered is told of each registration at a node.
func (w *stunWatch) registered(reg rendezvous.Registration) {
	w.note(reg.NodeAddr, reg.Observed)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, server := range reg.STUN {
		server = unmap(server)
		if w.watching[server] || len(w.watching) >= stunServer || server == reg.NodeAddr {
			continue
		}
		if server.Addr().Is4() == reg.NodeAddr.Addr().Is4() {
			continue // the node's connection knows this family
		}
		w.watching[server] = true
		w.h.tasks.Go(func() { w.watch(server) })
	}
}

// watch asks one server again and again until the host closes.
func (w *stunWatch) watch(server netip.AddrPort) {
	for w.h.ctx.Err() == nil {
		binding, err := w.client.Do(w.h.ctx, w.h.sock.send, server)
		if err == nil {
			w.note(server, binding.Mapped)
		} else {
			w.h.log.Debug("STUN", "server", server, "err", err)
		}
		waitFor(w.h.ctx, nil, stunAgain)
	}
}

func (w *stunWatch) note(server, mapped netip.AddrPort) {
	mapped = unmap(mapped)
	if !mapped.IsValid() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.observed[server] = mapped
	w.order = slices.DeleteFunc(w.order, func(o netip.AddrPort) bool { return o == server })
	w.order = slices.Insert(w.order, 0, server)
	if len(w.order) > maxMapped {
		delete(w.observed, w.order[maxMapped])
		w.order = w.order[:maxMapped]
	}
}

// mapped returns the addresses at which the outside sees us, latest first.
func (w *stunWatch) mapped() []netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []netip.AddrPort
	for _, server := range w.order {
		if a := w.observed[server]; !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// onThisMachine reports whether a node sees us at a loopback address: then it is
// on this machine, and so may be peers.
func (w *stunWatch) onThisMachine() bool {
	return slices.ContainsFunc(w.mapped(), func(a netip.AddrPort) bool { return a.Addr().IsLoopback() })
}

// inbound takes a STUN message of the socket.
func (w *stunWatch) inbound(b []byte, from netip.AddrPort) bool {
	return w.client.Inbound(b, from)
}

// candidates returns what a peer may be told of our addresses now.
func (h *Host) candidates() []holepunch.Candidate {
	local := unmap(h.LocalAddr())
	policy := holepunch.All
	if h.cfg.Policy == PolicyRelayOnly {
		policy = holepunch.RelayOnly
	}
	cands, err := holepunch.Gather(holepunch.GatherConfig{
		Interfaces: h.cfg.Interfaces,
		LocalPort:  local.Port(),
		LocalAddr:  local.Addr(),
		Observed:   h.stun.mapped(),
		Policy:     policy,
		Loopback:   h.stun.onThisMachine(),
	})
	if err != nil {
		h.log.Warn("listing interfaces", "err", err)
	}
	return cands
}

// acceptable drops the candidates of a peer that our policy does not use.
func (h *Host) acceptable(cands []holepunch.Candidate) []holepunch.Candidate {
	if h.cfg.Policy != PolicyDirectOnly {
		return cands
	}
	return slices.DeleteFunc(slices.Clone(cands), func(c holepunch.Candidate) bool { return c.Kind == holepunch.Relayed })
}

func (h *Host) localPrefixes() []netip.Prefix {
	prefixes, err := holepunch.LocalPrefixes(h.cfg.Interfaces)
	if err != nil {
		h.log.Warn("listing interfaces", "err", err)
	}
	return prefixes
}
