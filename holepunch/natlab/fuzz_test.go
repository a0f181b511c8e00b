package natlab

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// natModel is what an observer outside the engine may conclude: which inside endpoint an external
// endpoint belongs to for a remote, and until when at least.
type natModel struct {
	t    *testing.T
	nat  *NAT
	cfg  NATConfig
	now  time.Time
	seen map[tuple]claim
}

type claim struct {
	inside netip.AddrPort
	at     time.Time
}

// FuzzNAT runs random packets through a random NAT. An operation is 4 bytes: kind and time step,
// inside or remote endpoint, remote endpoint, port.
func FuzzNAT(f *testing.F) {
	ops := []byte{0, 1, 1, 1, 1, 1, 2, 2, 2, 1, 3, 3, 0x80, 2, 2, 2, 1, 7, 7, 7, 0xff, 2, 3, 4, 0, 9, 9, 9}
	for mapping := range byte(3) {
		for alloc := range byte(6) {
			for _, flags := range []byte{0, 1 | 8, 1 | 4 | 16, 32} {
				f.Add([]byte{mapping, (mapping + alloc) % 3, alloc, flags}, ops)
			}
			f.Add([]byte{mapping, 0, alloc, 1 | 2 | 8}, ops) // stealing
		}
	}
	f.Fuzz(func(t *testing.T, cfg, ops []byte) {
		if len(cfg) < 4 || len(ops) > 1000 {
			return
		}
		m := newModel(t, cfg)
		for len(ops) >= 4 && !t.Failed() {
			m.step([4]byte(ops))
			ops = ops[4:]
			m.consistent()
		}
	})
}

func newModel(t *testing.T, b []byte) *natModel {
	c := NATConfig{
		External:    []netip.Addr{addr4(20<<24 | 1), addr4(20<<24 | 2)}[:1+b[3]>>4&1],
		Mapping:     Behavior(b[0] % 3),
		Filtering:   Behavior(b[1] % 3),
		Allocation:  Allocation(b[2] % 6),
		Ports:       PortRange{100, 131},
		BlockSize:   8,
		Hairpin:     b[3]&1 != 0,
		Stealing:    b[3]&2 != 0,
		MaxSessions: 16,
		Pooling:     Pooling(b[3] >> 2 & 1),
		Seed:        uint64(b[3]),
	}
	c.InboundRefresh = b[3]&8 != 0
	if b[3]&32 != 0 {
		c.AbsoluteLifetime = 150 * time.Second
	}
	n, err := NewNAT(c)
	if err != nil {
		t.Fatal(err)
	}
	return &natModel{t: t, nat: n, cfg: n.cfg, now: time.Unix(1_000_000, 0), seen: map[tuple]claim{}}
}

func (m *natModel) step(op [4]byte) {
	m.now = m.now.Add(time.Duration(op[0]>>2) * 3 * time.Second)
	inside := netip.AddrPortFrom(addr4(192<<24|168<<16|1<<8|uint32(op[1]%6+2)), uint16(100+op[1]>>5))
	remote := netip.AddrPortFrom(addr4(9<<24|uint32(op[2]%4)), uint16(1+op[2]>>5))
	external := netip.AddrPortFrom(m.cfg.External[0], uint16(100+op[3]%32))
	switch op[0] & 3 {
	case 0, 1:
		m.out(inside, remote)
	case 2:
		m.in(external, remote)
	case 3:
		m.hairpin(inside, external)
	}
}

func (m *natModel) out(inside, remote netip.AddrPort) {
	payload := binary.BigEndian.AppendUint16(nil, inside.Port())
	q, err := m.nat.Outbound(m.now, Packet{inside, remote, 9, payload})
	if err != nil {
		if !errors.Is(err, ErrExhausted) {
			m.t.Fatalf("%v to %v: %v", inside, remote, err)
		}
		return
	}
	if q.Dst != remote || q.TTL != 9 || string(q.Payload) != string(payload) {
		m.t.Fatalf("more than the source changed: %+v", q)
	}
	m.claim(tuple{q.Src, remote}, inside)
	back, err := m.nat.Inbound(m.now, Packet{Src: remote, Dst: q.Src})
	if err != nil || back.Dst != inside {
		m.t.Fatalf("%v to %v left from %v, the answer went to %v, %v", inside, remote, q.Src, back.Dst, err)
	}
}

// claim records who has an external endpoint towards a remote and fails if somebody else must
// still have it. With an absolute lifetime an observer cannot know: the mapping may be older than
// what was seen of it.
func (m *natModel) claim(t tuple, inside netip.AddrPort) {
	old, ok := m.seen[t]
	if ok && old.inside != inside && m.now.Sub(old.at) < m.cfg.Lifetime && m.cfg.AbsoluteLifetime == 0 {
		m.t.Fatalf("%v towards %v belongs to %v and %v", t.external, t.remote, old.inside, inside)
	}
	m.seen[t] = claim{inside, m.now}
}

func (m *natModel) in(external, remote netip.AddrPort) {
	q, err := m.nat.Inbound(m.now, Packet{Src: remote, Dst: external})
	if err == nil {
		if q.Src != remote || q.Dst.Addr() == external.Addr() {
			m.t.Fatalf("inbound became %v to %v", q.Src, q.Dst)
		}
		return
	}
	if !errors.Is(err, ErrNoMapping) && !errors.Is(err, ErrFiltered) {
		m.t.Fatal(err)
	}
}

func (m *natModel) hairpin(inside, external netip.AddrPort) {
	q, err := m.nat.Outbound(m.now, Packet{Src: inside, Dst: external})
	if !m.cfg.Hairpin {
		if !errors.Is(err, ErrNoHairpin) {
			m.t.Fatalf("hairpin off: %v", err)
		}
		return
	}
	if err == nil && (!m.nat.isExternal(q.Src.Addr()) || m.nat.isExternal(q.Dst.Addr())) {
		m.t.Fatalf("hairpinned packet %v to %v", q.Src, q.Dst)
	}
}

// consistent checks the engine's tables against each other and their bounds.
func (m *natModel) consistent() {
	n := m.nat
	sessions, perHost := 0, map[netip.Addr]int{}
	for f, mp := range n.flows {
		sessions += len(mp.peers)
		perHost[f.inside.Addr()]++
		if mp.flow != f || n.tuples[mp.tuple] != mp {
			m.t.Fatalf("mapping %v is not found by its tuple", f)
		}
		if n.cfg.Allocation != Preserving && (mp.tuple.external.Port() < 100 || mp.tuple.external.Port() > 131) {
			m.t.Fatalf("port %d is out of range", mp.tuple.external.Port())
		}
	}
	if len(n.tuples) != len(n.flows) || sessions != n.sessions || sessions > 16 || len(n.stolen) > 16 {
		m.t.Fatalf("%d flows, %d tuples, %d sessions counted %d, %d stolen", len(n.flows), len(n.tuples), n.sessions, sessions, len(n.stolen))
	}
	if len(n.hosts) != len(perHost) {
		m.t.Fatalf("%d hosts known, %d have mappings", len(n.hosts), len(perHost))
	}
	for a, h := range n.hosts {
		if h.mappings != perHost[a] || h.block.IsValid() && n.blocks[h.block] != a {
			m.t.Fatalf("host %v: %d mappings, counted %d, block %v", a, h.mappings, perHost[a], h.block)
		}
	}
	if len(n.blocks) > len(n.hosts) {
		m.t.Fatalf("%d blocks for %d hosts", len(n.blocks), len(n.hosts))
	}
}
