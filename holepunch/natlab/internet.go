package natlab

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config of an Internet. The zero value is an internet without delay or loss.
type Config struct {
	// Seed of every random choice: loss, jitter, ports. Same seed, same run, as far as the
	// goroutine scheduler allows.
	Seed uint64
	// Link is the link of every host and router attached to the Internet itself whose own
	// LinkConfig is zero. Links inside a router's network do not inherit it.
	Link LinkConfig
	// Hops is how many routers there are between two links of the Internet, each of which takes
	// one from the TTL; zero: 4; negative: none.
	Hops int
	// ReceiveQueue is the number of datagrams a socket holds for its reader; zero: 4096.
	ReceiveQueue int
	// Tap, if not nil, sees every packet, in order. It is called from any goroutine, one at a time
	// and with the lab's lock held: it must not call anything of this package but methods of its
	// argument, and needs a lock of its own if the data it collects are read meanwhile.
	Tap func(Event)
}

// EventKind says what happened to a packet.
type EventKind uint8

const (
	// Sent by a socket; Packet is as sent.
	Sent EventKind = iota
	// Forwarded by a router; Packet is after translation.
	Forwarded
	// Delivered into the receive queue of a socket.
	Delivered
	// Dropped for the reason in Err.
	Dropped
)

// String returns the name of k in lower case.
func (k EventKind) String() string {
	return [...]string{"sent", "forwarded", "delivered", "dropped"}[k&3]
}

// Event is one step in the life of a packet.
type Event struct {
	Time   time.Time
	Kind   EventKind
	At     string // name of the host or router, or of the link's lower end for drops on a link
	Packet Packet
	Err    error // why it was dropped
}

// Network is where hosts and routers are attached: an Internet or a Router.
type Network interface {
	// Host attaches a host. It panics if the config cannot be honoured, for example an address
	// that is taken: topologies are written by programmers.
	Host(name string, c HostConfig) *Host
	// Router attaches a router with a network of its own. It panics like Host.
	Router(name string, c RouterConfig) *Router
	// Site attaches a host behind a NAT or firewall of the given kind.
	Site(kind SiteKind, name string) (*Site, error)

	inside() *segment
}

var (
	_ Network = (*Internet)(nil)
	_ Network = (*Router)(nil)
)

// Internet is the lab: its own network is the public internet.
type Internet struct {
	cfg   Config
	start time.Time
	core  *segment
	links int

	mu      sync.Mutex // guards everything below and the state of all nodes, links and segments
	queue   eventQueue
	seq     uint64
	timer   *time.Timer
	armed   time.Duration // when timer fires; meaningless if it is not armed
	isArmed bool
	closed  bool
	sockets map[*Socket]struct{}
}

// New returns an empty internet. It starts no goroutine; a timer runs while packets are under way.
// Under testing/synctest call it inside the bubble.
func New(c Config) *Internet {
	c.Hops = max(0, orDefault(c.Hops, 4))
	c.ReceiveQueue = orDefault(c.ReceiveQueue, 4096)
	in := &Internet{cfg: c, start: time.Now(), sockets: map[*Socket]struct{}{}}
	in.core = newSegment(in, nil)
	return in
}

// Close closes all sockets and forgets the packets under way. It is idempotent.
func (in *Internet) Close() error {
	in.mu.Lock()
	in.closed = true
	in.queue = nil
	if in.timer != nil {
		in.timer.Stop()
	}
	open := make([]*Socket, 0, len(in.sockets))
	for s := range in.sockets {
		open = append(open, s)
	}
	in.mu.Unlock()
	for _, s := range open {
		_ = s.Close() // cannot fail but with net.ErrClosed
	}
	return nil
}

// Host attaches a host with public addresses.
func (in *Internet) Host(name string, c HostConfig) *Host { return newHost(in.core, name, c) }

// Router attaches a router to the public internet.
func (in *Internet) Router(name string, c RouterConfig) *Router { return newRouter(in.core, name, c) }

// Site attaches a host behind a NAT or firewall of the given kind to the public internet.
func (in *Internet) Site(kind SiteKind, name string) (*Site, error) {
	return newSite(in, kind, name)
}

func (in *Internet) inside() *segment { return in.core }

// elapsed is the lab's clock: monotonic, and virtual under testing/synctest.
func (in *Internet) elapsed() time.Duration { return time.Since(in.start) }

func (in *Internet) tap(now time.Duration, k EventKind, at string, p Packet, err error) {
	if in.cfg.Tap != nil {
		in.cfg.Tap(Event{in.start.Add(now), k, at, p, err})
	}
}

func (in *Internet) drop(now time.Duration, at string, p Packet, err error) {
	in.tap(now, Dropped, at, p, err)
}

// rng returns an independent random sequence for one purpose.
func (in *Internet) rng(purpose string) *rand.Rand {
	return rand.New(rand.NewPCG(in.cfg.Seed, in.hash(purpose)))
}

func (in *Internet) hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64() ^ in.cfg.Seed
}

// segment is a network that hosts and routers are attached to.
type segment struct {
	in      *Internet
	gateway *Router // nil: the public internet
	hosts   map[netip.Addr]*Link
	routes  map[netip.Prefix]*Link
	lengths []int // of the prefixes in routes, longest first
	plan    plan
}

func newSegment(in *Internet, gateway *Router) *segment {
	return &segment{in: in, gateway: gateway, hosts: map[netip.Addr]*Link{}, routes: map[netip.Prefix]*Link{}}
}

// route sends packets for p to the router on l.
func (s *segment) route(p netip.Prefix, l *Link) {
	if o := s.routes[p]; o != nil {
		panic(fmt.Sprintf("natlab: %s: network %v is routed to %s", l.name, p, o.name))
	}
	s.routes[p] = l
	if !slices.Contains(s.lengths, p.Bits()) {
		s.lengths = append(s.lengths, p.Bits())
		slices.Sort(s.lengths)
		slices.Reverse(s.lengths)
	}
}

// lookup finds the link on which dst is: an address of a node, or the longest routed prefix.
func (s *segment) lookup(dst netip.Addr) *Link {
	if l := s.hosts[dst]; l != nil {
		return l
	}
	for _, bits := range s.lengths {
		p, err := dst.Prefix(bits)
		if err != nil {
			continue // longer than an address of this family
		}
		if l := s.routes[p]; l != nil {
			return l
		}
	}
	return nil
}

// forward carries on a packet that has arrived in the segment. fromGateway says that it came
// from outside or has been hairpinned, and must not go out again.
func (s *segment) forward(now time.Duration, at string, p Packet, fromGateway bool) {
	if s.gateway == nil {
		if int(p.TTL) <= s.in.cfg.Hops {
			s.in.drop(now, at, p, ErrTTL)
			return
		}
		p.TTL -= uint8(s.in.cfg.Hops)
	}
	switch l := s.lookup(p.Dst.Addr()); {
	case l != nil:
		l.send(now, down, p)
	case s.gateway != nil && !fromGateway:
		s.gateway.egress(now, p)
	default:
		s.in.drop(now, at, p, ErrNoRoute)
	}
}
