package holepunch

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// pair runs two Sessions against each other over an imagined network: no goroutine,
// no socket, no clock. What happened is kept as a log for the failure message.
type pair struct {
	*testing.T
	now    time.Time
	began  time.Time
	delay  time.Duration
	drop   func(from, to netip.AddrPort) bool
	ends   [2]*pairEnd
	flying []datagram
	log    []string
}

// pairEnd is one side: its Session, and the NAT in front of it.
type pairEnd struct {
	name   string
	s      *Session
	out    func(to netip.AddrPort) netip.AddrPort // source that the world sees; opens the hole
	in     func(from, to netip.AddrPort) bool     // whether a packet gets in
	owns   func(to netip.AddrPort) bool           // whether to is ours
	heard  map[netip.AddrPort]time.Duration       // first Heard or better
	sure   map[netip.AddrPort]time.Duration       // first Confirmed
	sentTo map[netip.AddrPort]int
}

type datagram struct {
	at       time.Time
	from, to netip.AddrPort
	b        []byte
}

// filtering of RFC 4787 section 5.
type filtering int

const (
	endpointIndependent filtering = iota
	addressDependent
	addressAndPortDependent
)

// coneNAT maps endpoint-independently to mapped.
func coneNAT(mapped netip.AddrPort, f filtering) (out func(netip.AddrPort) netip.AddrPort, in func(from, to netip.AddrPort) bool) {
	opened := map[netip.AddrPort]bool{}
	addrs := map[netip.Addr]bool{}
	out = func(to netip.AddrPort) netip.AddrPort {
		opened[to], addrs[to.Addr()] = true, true
		return mapped
	}
	in = func(from, to netip.AddrPort) bool {
		switch {
		case to != mapped:
			return false
		case f == endpointIndependent:
			return true
		case f == addressDependent:
			return addrs[from.Addr()]
		}
		return opened[from]
	}
	return out, in
}

// symmetricNAT maps every remote to a port of its own: address-and-port-dependent mapping.
func symmetricNAT(addr netip.Addr) (out func(netip.AddrPort) netip.AddrPort, in func(from, to netip.AddrPort) bool) {
	ports := map[netip.AddrPort]uint16{}
	out = func(to netip.AddrPort) netip.AddrPort {
		if ports[to] == 0 {
			ports[to] = 20_000 + uint16(len(ports))
		}
		return netip.AddrPortFrom(addr, ports[to])
	}
	in = func(from, to netip.AddrPort) bool { return ports[from] == to.Port() }
	return out, in
}

const (
	testCaller = "198.51.100.1:4001"
	testCallee = "203.0.113.2:4002"
)

// newPair makes two sides behind cone NATs of the given filtering.
func newPair(t *testing.T, delay time.Duration, caller, callee filtering, start time.Duration) *pair {
	p := &pair{T: t, now: time.Unix(2_000_000, 0), delay: delay}
	p.began = p.now
	a, b := netip.MustParseAddrPort(testCaller), netip.MustParseAddrPort(testCallee)
	cfg := SessionConfig{Secret: [32]byte{7}, Caller: true, Start: p.now}
	p.ends[0] = p.end("caller", cfg, a, caller)
	cfg.Caller, cfg.Start = false, p.now.Add(start)
	p.ends[1] = p.end("callee", cfg, b, callee)
	p.ends[0].s.AddRemote(p.now, Candidate{Kind: ServerReflexive, Addr: b})
	p.ends[1].s.AddRemote(p.now, Candidate{Kind: ServerReflexive, Addr: a})
	return p
}

func (p *pair) end(name string, cfg SessionConfig, mapped netip.AddrPort, f filtering) *pairEnd {
	e := &pairEnd{name: name, s: NewSession(cfg), heard: map[netip.AddrPort]time.Duration{},
		sure: map[netip.AddrPort]time.Duration{}, sentTo: map[netip.AddrPort]int{}}
	e.out, e.in = coneNAT(mapped, f)
	e.owns = func(to netip.AddrPort) bool { return to.Addr() == mapped.Addr() }
	return e
}

// run lets d pass, packet by packet and deadline by deadline.
func (p *pair) run(d time.Duration) {
	p.Helper()
	end := p.now.Add(d)
	for range 1_000_000 {
		next := end
		for _, e := range p.ends {
			if wake := p.poll(e); !wake.IsZero() && wake.Before(next) {
				next = wake
			}
		}
		for _, f := range p.flying {
			if f.at.Before(next) {
				next = f.at
			}
		}
		p.now = next
		if p.deliver(); p.now.Equal(end) {
			return
		}
	}
	p.Fatal("the sessions do not come to rest")
}

func (p *pair) poll(e *pairEnd) time.Time {
	out, wake := e.s.Poll(p.now)
	for _, o := range out {
		from := e.out(o.Path.Remote)
		e.sentTo[o.Path.Remote]++
		if p.drop != nil && p.drop(from, o.Path.Remote) {
			continue
		}
		p.flying = append(p.flying, datagram{p.now.Add(p.delay), from, o.Path.Remote, o.Bytes})
	}
	for _, s := range e.s.Paths() {
		if _, ok := e.heard[s.Path.Remote]; !ok && (s.State == Heard || s.State == Confirmed) {
			e.heard[s.Path.Remote] = p.now.Sub(p.began)
		}
		if _, ok := e.sure[s.Path.Remote]; !ok && s.State == Confirmed {
			e.sure[s.Path.Remote] = p.now.Sub(p.began)
			p.note("%s: %v is confirmed", e.name, s.Path)
		}
	}
	return wake
}

// deliver hands over what has arrived, in order.
func (p *pair) deliver() {
	var rest []datagram
	for _, f := range p.flying {
		if f.at.After(p.now) {
			rest = append(rest, f)
			continue
		}
		for _, e := range p.ends {
			if !e.owns(f.to) {
				continue
			}
			if !e.in(f.from, f.to) {
				p.note("%s: filtered %v → %v", e.name, f.from, f.to)
				continue
			}
			if err := e.s.Receive(p.now, Path{Remote: f.from}, f.b); err != nil {
				p.note("%s: %v", e.name, err)
			}
		}
	}
	p.flying = rest
}

func (p *pair) note(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf("%7.1f ms  ", float64(p.now.Sub(p.began).Microseconds())/1e3)+fmt.Sprintf(format, args...))
}

// wantConfirmed: the first path that e confirmed came at the latest then.
func (p *pair) wantConfirmed(e *pairEnd, by time.Duration, why string) {
	p.Helper()
	for _, at := range e.sure {
		if at <= by {
			return
		}
	}
	p.Fatalf("%s is not confirmed by %v (%v): %s\n%s", e.name, by, e.sure, why, strings.Join(p.log, "\n"))
}

// Both sides start together: one round trip and it is done.
func TestConeAndConeTogether(t *testing.T) {
	p := newPair(t, 40*ms, addressAndPortDependent, addressAndPortDependent, 0)
	p.run(200 * ms)
	p.wantConfirmed(p.ends[0], 80*ms, "the first checks cross, the answers come back")
	p.wantConfirmed(p.ends[1], 80*ms, "the same")
}

// The callee knocks from the moment it has the offer: its checks are filtered until
// the caller opens, and then get in at once: the caller hears the callee half a round trip before
// its own first check is answered.
func TestCalleeFirst(t *testing.T) {
	p := newPair(t, 40*ms, addressAndPortDependent, addressAndPortDependent, 0)
	p.ends[0].s.cfg.Start = p.now.Add(100 * ms)
	for _, x := range p.ends[0].s.paths {
		x.run.next = p.ends[0].s.cfg.Start
	}
	p.run(300 * ms)
	at := p.ends[0].heard[netip.MustParseAddrPort(testCallee)]
	if at > 120*ms {
		t.Errorf("the caller heard the callee %v after the beginning, want within 20 ms of its start at 100 ms", at)
	}
	p.wantConfirmed(p.ends[0], 180*ms, "one round trip after its start")
	p.wantConfirmed(p.ends[1], 220*ms, "and the callee a pace later")
}

// A callee that waits, so that its unsolicited packets do not take the caller's mapping, is still fast.
func TestCallerFirst(t *testing.T) {
	p := newPair(t, 20*ms, addressAndPortDependent, addressDependent, 35*ms)
	p.run(300 * ms)
	p.wantConfirmed(p.ends[0], 35*ms+40*ms+20*ms, "one round trip after the later side began, and a pace")
	p.wantConfirmed(p.ends[1], 35*ms+40*ms+20*ms, "the same")
}

// Half of all packets are lost, for twenty seeds.
func TestLossyPair(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := newPair(t, 25*ms, addressAndPortDependent, addressAndPortDependent, 0)
		p.drop = func(_, _ netip.AddrPort) bool { return rnd.IntN(2) == 0 }
		p.run(3 * time.Second)
		p.wantConfirmed(p.ends[0], time.Second, fmt.Sprintf("half of the packets arrive (seed %d)", seed))
		p.wantConfirmed(p.ends[1], time.Second, fmt.Sprintf("half of the packets arrive (seed %d)", seed))
	}
}

// A side with address-and-port-dependent mapping is reached by a peer-reflexive
// candidate where the other filters by address alone.
func TestSymmetricAgainstRestrictedCone(t *testing.T) {
	p := newPair(t, 30*ms, addressDependent, addressAndPortDependent, 0)
	callee := p.ends[1]
	callee.out, callee.in = symmetricNAT(netip.MustParseAddr("203.0.113.2"))
	p.run(500 * ms)
	p.wantConfirmed(p.ends[0], 150*ms, "the callee's check taught the caller its new port")
	p.wantConfirmed(callee, 150*ms, "and the caller answered")
	for addr := range p.ends[0].sure {
		if addr.Port() < 20_000 {
			t.Errorf("confirmed %v, which the NAT never gave out", addr)
		}
	}
}

// Address-and-port-dependent mapping against filtering by address and port is not feasible
// by plain knocking: every path fails, with its reason, and the packets are counted.
func TestSymmetricAgainstPortRestricted(t *testing.T) {
	p := newPair(t, 30*ms, addressAndPortDependent, addressAndPortDependent, 0)
	p.ends[1].out, p.ends[1].in = symmetricNAT(netip.MustParseAddr("203.0.113.2"))
	p.run(15 * time.Second)
	for _, e := range p.ends {
		for _, s := range e.s.Paths() {
			if s.State != Failed || !strings.Contains(s.FailWhy, "no answer to") {
				t.Errorf("%s: %v is %v (%q)", e.name, s.Path, s.State, s.FailWhy)
			}
			if n := e.sentTo[s.Path.Remote]; n > 40 {
				t.Errorf("%s sent %d packets to %v", e.name, n, s.Path)
			}
		}
	}
}

// The path dies and comes back: both sides see it fail, and it is revived without
// anybody starting over.
func TestOutage(t *testing.T) {
	p := newPair(t, 20*ms, addressAndPortDependent, addressAndPortDependent, 0)
	path := Path{Remote: netip.MustParseAddrPort(testCallee)}
	p.run(2 * time.Second)
	p.drop = func(_, _ netip.AddrPort) bool { return true }
	p.ends[0].s.Probe(p.now, path)
	p.run(time.Second)
	if s := p.ends[0].s.Paths()[0]; s.State != Failed {
		t.Fatalf("the path is %v after an outage of a second", s.State)
	}
	p.run(20 * time.Second)
	if s := p.ends[1].s.Paths()[0]; s.State != Failed {
		t.Fatalf("the callee's keepalive did not notice: %v", s.State)
	}
	p.drop = nil
	p.run(31 * time.Second)
	for _, e := range p.ends {
		if s := e.s.Paths()[0]; s.State != Confirmed {
			t.Errorf("%s: %v after the outage: %s", e.name, s.State, s.FailWhy)
		}
	}
}

// What two sides exchange once linked is little: keepalives.
func TestLinkedPairIsQuiet(t *testing.T) {
	p := newPair(t, 20*ms, addressAndPortDependent, addressAndPortDependent, 0)
	p.run(5 * time.Second)
	before := len(p.log) + p.total()
	p.run(10 * time.Minute)
	if n := len(p.log) + p.total() - before; n > 4*40+4 {
		t.Errorf("%d packets in ten minutes, want about 160: a ping and a pong in each direction every 15 s", n)
	}
}

func (p *pair) total() int {
	n := 0
	for _, e := range p.ends {
		for _, c := range e.sentTo {
			n += c
		}
	}
	return n
}
