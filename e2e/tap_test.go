package e2e

import (
	"net/netip"
	"sync"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// tap records who sent packets to whom.
type tap struct {
	mu     sync.Mutex
	counts map[flow]int
	extra  func(natlab.Event)
}

// flow is what one machine sent to, or received from, one address.
type flow struct {
	kind natlab.EventKind
	at   string
	peer netip.Addr // the destination of what was sent, the source of what was delivered
}

func newTap() *tap { return &tap{counts: make(map[flow]int)} }

func (p *tap) see(e natlab.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.extra != nil {
		p.extra(e)
	}
	switch e.Kind {
	case natlab.Sent:
		p.counts[flow{e.Kind, e.At, e.Packet.Dst.Addr()}]++
	case natlab.Delivered:
		p.counts[flow{e.Kind, e.At, e.Packet.Src.Addr()}]++
	}
}

func (p *tap) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = make(map[flow]int)
}

// sent counts the packets that a machine sent to addresses for which to is true.
func (p *tap) sent(from string, to func(netip.Addr) bool) int {
	return p.count(natlab.Sent, from, to)
}

// delivered counts the packets that reached a machine from addresses for which
// from is true.
func (p *tap) delivered(at string, from func(netip.Addr) bool) int {
	return p.count(natlab.Delivered, at, from)
}

func (p *tap) count(kind natlab.EventKind, at string, peer func(netip.Addr) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f, c := range p.counts {
		if f.kind == kind && f.at == at && peer(f.peer) {
			n += c
		}
	}
	return n
}

// addrsOf returns whether an address is one of a site's, inside or outside.
func addrsOf(sites ...*natlab.Site) func(netip.Addr) bool {
	var own []netip.Addr
	for _, s := range sites {
		for _, p := range s.Host.Addrs() {
			own = append(own, p.Addr())
		}
		for _, r := range []*natlab.Router{s.Home, s.Carrier} {
			if r != nil {
				own = append(own, r.External()...)
			}
		}
	}
	return func(a netip.Addr) bool {
		for _, o := range own {
			if o == a {
				return true
			}
		}
		return false
	}
}

func anybody(netip.Addr) bool { return true }
