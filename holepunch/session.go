package holepunch

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Bounds of a Session. A hostile peer cannot make it grow or send beyond them.
const (
	MaxPeerReflexive = 16  // remotes learned from checks; the longest failed one makes room
	maxBases         = 9   // the socket and eight relay allocations
	maxPaths         = 192 // pairs
	maxPerIP         = 8   // signalled candidates with one IP address: a third host is not flooded
	maxRound         = 50  // ordinary checks per round
	maxPending       = 4096
	maxQueued        = 256 // packets that wait for Poll
)

// A SessionConfig is copied and never modified. Zero fields have the stated
// default; negative durations turn the thing off where that makes sense.
type SessionConfig struct {
	Secret [32]byte  // the offer's
	Caller bool      // our side made the offer
	Start  time.Time // no check leaves before, except in reply to the peer's; zero: at once

	// OpenerTTL, where it is not 0, is the TTL of openers: checks sent before Start that open
	// our own NAT and die on the way, so that they cannot reach a NAT that the peer has not opened
	// yet. Only public addresses get them. The socket must be able to set it.
	OpenerTTL int

	Families      Families       // what the socket (base 0) can send to; zero: both
	LocalPrefixes []netip.Prefix // our interfaces' networks, to know what is on-link

	// Loopback permits checks to loopback addresses: both peers may be on this machine.
	Loopback bool

	Pace      time.Duration // between rounds at first; 0: 20 ms
	Duration  time.Duration // how long an unanswered pair is checked; 0: 10 s
	Keepalive time.Duration // of paths in use; 0: 15 s; negative: off
}

// The timing of a session beyond its Config.
const (
	fastPhase     = 300 * time.Millisecond // checks at Pace, from the start of a pair
	relayHold     = 600 * time.Millisecond // for the peer to reach our relay before that knocks at the peer's NAT
	openerPace    = 40 * time.Millisecond  // between openers to one address
	firstBackoff  = 50 * time.Millisecond  // then doubling
	maxBackoff    = time.Second
	rareRounds    = 2 // rankRare: rounds at Pace
	rareBackoff   = 200 * time.Millisecond
	rareMax       = 2 * time.Second
	consent       = 2 * time.Second // Heard without an answer to us
	probeTries    = 4
	minProbe      = 30 * time.Millisecond  // between two probes
	minVerdict    = 300 * time.Millisecond // from the first probe: a queue may have filled since the last round trip
	maxTimeout    = time.Second            // for the answer to the last
	settle        = time.Second            // from Confirmed to the first keepalive; others stop then
	firstRecheck  = 5 * time.Second        // of a pair that never worked
	firstRevive   = time.Second            // of one that did
	maxRecheck    = 30 * time.Second
	pendingFor    = 5 * time.Second // a pong later than this is no answer
	maxSendErrors = 3
)

// An Outgoing packet belongs to the receiver of it. TTL 0 is the system's default.
type Outgoing struct {
	Path  Path
	TTL   int
	Bytes []byte
}

// BaseInfo describes a sending point.
type BaseInfo struct {
	Via      string   // the relay's name; empty for the socket
	Families Families // what it can send to; zero: both
}

// A Session punches and then keeps the paths between two peers: one per link, from
// offer to close. It is pure: packets and the time go in, packets and the next deadline come
// out; it has no socket, timer, lock or goroutine. The owner calls Receive for every packet
// whose CheckTag is Tag, and Poll after any other call and when its deadline passes. Not safe for
// concurrent use.
type Session struct {
	cfg     SessionConfig
	keys    checkKeys
	counter uint64 // of the last check sent
	window  replayWindow

	bases   map[Base]BaseInfo
	remotes []*remote
	paths   []*path // by rank
	byPath  map[Path]*path
	pending map[uint64]pendingPing // by transaction ID
	pruned  time.Time              // pending was, last
	out     []Outgoing             // for the next Poll

	active  Path
	round   round
	now     time.Time // the latest that was seen
	wake    time.Time // nothing is due before; valid when !dirty
	dirty   bool
	version uint64
}

// remote is one remote candidate; all its paths share it.
type remote struct {
	addr netip.AddrPort
	kind Kind
	via  string
}

// pendingPing is a ping whose pong may still come.
type pendingPing struct {
	path *path
	at   time.Time
}

// round is the budget of ordinary checks: maxRound per Pace.
type round struct {
	began time.Time
	sent  int
}

// NewSession starts a session. The socket (base 0) is there from the beginning;
// candidates are added with AddRemote.
func NewSession(cfg SessionConfig) *Session {
	cfg.Pace = cmp.Or(max(cfg.Pace, 0), 20*time.Millisecond)
	cfg.Duration = cmp.Or(max(cfg.Duration, 0), 10*time.Second)
	cfg.Keepalive = cmp.Or(cfg.Keepalive, 15*time.Second)
	cfg.LocalPrefixes = slices.Clone(cfg.LocalPrefixes)
	return &Session{
		cfg:     cfg,
		keys:    newCheckKeys(cfg.Secret, cfg.Caller),
		bases:   map[Base]BaseInfo{0: {Families: cfg.Families}},
		byPath:  make(map[Path]*path),
		pending: make(map[uint64]pendingPing),
	}
}

// Tag returns what inbound checks for this session carry: see CheckTag.
func (s *Session) Tag() Tag { return s.keys.inTag }

// Version changes whenever a path is added or the state or kind of one changes.
func (s *Session) Version() uint64 { return s.version }

// Paths returns a snapshot of every path, in the order in which they are checked. In
// FailWhy "in 5.0 s" counts to the last time that the session was told.
func (s *Session) Paths() []PathStatus {
	out := make([]PathStatus, len(s.paths))
	for i, p := range s.paths {
		out[i] = s.status(s.now, p)
	}
	return out
}

// AddRemote adds candidates of the peer: those of its offer or answer at first,
// later those of updates. A known address takes the kind and relay name it is given now.
// Candidates that are not Punchable, or beyond MaxCandidates or eight per IP address, are ignored.
func (s *Session) AddRemote(now time.Time, cands ...Candidate) {
	s.tick(now)
	for _, c := range cands {
		c.Addr = unmap(c.Addr)
		if punchable(c.Addr, s.cfg.Loopback) != nil || c.validate() != nil {
			continue
		}
		if known := s.findRemote(c.Addr); known != nil {
			s.relabel(known, c.Kind, c.Via)
			s.pair(now, known)
			continue
		}
		if !s.roomFor(c.Addr.Addr()) {
			continue
		}
		r := &remote{addr: c.Addr, kind: c.Kind, via: c.Via}
		s.remotes = append(s.remotes, r)
		s.pair(now, r)
	}
}

// AddBase adds a sending point, such as a relay allocation that got ready. Base 0
// is there already; giving it again changes its families for later candidates.
func (s *Session) AddBase(now time.Time, base Base, info BaseInfo) {
	s.tick(now)
	_, known := s.bases[base]
	if !known && len(s.bases) >= maxBases {
		return
	}
	s.bases[base] = info
	for _, p := range s.paths {
		if p.Base == base && !known { // it was removed, and is back
			s.begin(now, p)
		}
	}
	for _, r := range s.remotes {
		if r.kind != PeerReflexive { // learned on one base, and of no use to another (RFC 8445 section 7.3.1.3)
			s.pair(now, r)
		}
	}
}

// RemoveBase fails every path of a sending point that is gone, for the reason given.
func (s *Session) RemoveBase(now time.Time, base Base, why error) {
	s.tick(now)
	delete(s.bases, base)
	for _, p := range s.paths {
		if p.Base == base {
			s.setState(now, p, Failed, fmt.Sprintf("the sending point is gone: %v", why))
		}
	}
}

// SetActive says which path carries the data: it is kept alive whatever else is.
func (s *Session) SetActive(p Path) {
	s.active = Path{p.Base, unmap(p.Remote)}
}

// Probe checks p with four probes in quick succession, and fails it when none is answered in the
// time that answers take (RFC 6298's timeout, 300 ms at least): for the owner's suspicion that the path
// died. During a probe it does nothing. A path that is not confirmed is checked once.
func (s *Session) Probe(now time.Time, at Path) {
	s.tick(now)
	p := s.lookup(at)
	if p == nil || !s.hasBase(p.Base) {
		return
	}
	switch {
	case p.state == Confirmed && p.run.tries > 0: // one is under way
	case p.state == Confirmed:
		p.run.backoff = max(p.tally.rtt/8, minProbe)
		s.probe(now, p)
	default:
		p.run.next = now
	}
}

// SendFailed tells of a packet that the system refused to send. Three in a row fail
// the path: an interface is down, or there is no route.
func (s *Session) SendFailed(now time.Time, at Path, err error) {
	s.tick(now)
	p := s.lookup(at)
	if p == nil {
		return
	}
	if p.tally.sendErrs++; p.tally.sendErrs >= maxSendErrors && p.state != Failed {
		s.setState(now, p, Failed, fmt.Sprintf("sending to %v: %v", p.Remote, err))
	}
}

// Restart begins anew at start, with every candidate: the network changed, or both
// sides agreed on another attempt.
func (s *Session) Restart(now, start time.Time) {
	s.tick(now)
	s.cfg.Start = start
	for _, p := range s.paths {
		if s.hasBase(p.Base) {
			s.begin(now, p)
		}
	}
}

// begin forgets what is known of p and checks it anew.
func (s *Session) begin(now time.Time, p *path) {
	p.doubtedAt, p.confirmedAt, p.why = time.Time{}, time.Time{}, ""
	s.setState(now, p, Waiting, "")
	p.run.next = s.firstCheck(now, p)
}

// firstCheck is when the first check to p leaves: at Start where the peer's NAT
// might take it amiss, unless an opener goes ahead of it. From a relay of ours we let
// the peer come first, who was told of the relay: what we send from there would reach
// a NAT that has not seen the relay's address.
func (s *Session) firstCheck(now time.Time, p *path) time.Time {
	switch {
	case p.rank == rankFromRelay:
		return now.Add(relayHold)
	case !p.startsTogether() || s.cfg.OpenerTTL > 0 && p.rank == rankPublic:
		return now
	}
	return later(now, s.cfg.Start)
}

// startsTogether reports whether the two sides must start at one time on p: not
// where a relay is between them, which opens to whom it is told, or nothing.
func (p *path) startsTogether() bool {
	return p.rank == rankPublic || p.rank == rankRare && p.Base == 0
}

// tick notes the time and that deadlines may have moved.
func (s *Session) tick(now time.Time) {
	s.now = later(s.now, now)
	s.dirty = true
}

func (s *Session) lookup(p Path) *path { return s.byPath[Path{p.Base, unmap(p.Remote)}] }

func (s *Session) hasBase(b Base) bool {
	_, ok := s.bases[b]
	return ok
}

func (s *Session) findRemote(addr netip.AddrPort) *remote {
	i := slices.IndexFunc(s.remotes, func(r *remote) bool { return r.addr == addr })
	if i < 0 {
		return nil
	}
	return s.remotes[i]
}

// roomFor enforces the bounds on signalled candidates.
func (s *Session) roomFor(ip netip.Addr) bool {
	total, same := 0, 0
	for _, r := range s.remotes {
		if r.kind == PeerReflexive {
			continue
		}
		total++
		if r.addr.Addr() == ip {
			same++
		}
	}
	return total < MaxCandidates && same < maxPerIP
}

// relabel corrects what we believed of a remote: a peer-reflexive one that is now
// signalled, or one that turns out to be a relay's.
func (s *Session) relabel(r *remote, k Kind, via string) {
	if r.kind == k && r.via == via {
		return
	}
	r.kind, r.via = k, via
	s.version++
	for _, p := range s.paths {
		if p.remote == r {
			s.classify(p)
		}
	}
	s.sortPaths()
}

// pair makes the missing paths from every base that can reach r.
func (s *Session) pair(now time.Time, r *remote) {
	for base := range Base(255) {
		info, ok := s.bases[base]
		if ok && info.Families.Has(r.addr.Addr()) {
			s.addPath(now, base, r)
		}
	}
}

// addPath returns the path, made if it is new, or nil where there is no room.
func (s *Session) addPath(now time.Time, base Base, r *remote) *path {
	key := Path{base, r.addr}
	if p, ok := s.byPath[key]; ok {
		return p
	}
	if len(s.paths) >= maxPaths {
		return nil
	}
	p := &path{Path: key, remote: r}
	s.classify(p)
	p.run.next = s.firstCheck(now, p)
	s.byPath[key] = p
	s.paths = append(s.paths, p)
	s.sortPaths()
	s.version++
	return p
}

// sortPaths keeps the order of arrival among equals: the peer put its best first.
func (s *Session) sortPaths() {
	slices.SortStableFunc(s.paths, func(a, b *path) int { return cmp.Compare(a.rank, b.rank) })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// newTransaction is unpredictable: who answers with it has received the ping.
func newTransaction() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return binary.BigEndian.Uint64(b[:])
}
