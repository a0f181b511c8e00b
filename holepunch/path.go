package holepunch

import (
	"fmt"
	"net/netip"
	"time"
)

// A Base is a local sending point: 0 is the socket itself, others are relay allocations.
type Base uint8

// A Path is a pair of a local and a remote transport address (RFC 8445: candidate pair).
type Path struct {
	Base   Base
	Remote netip.AddrPort // unmapped
}

func (p Path) String() string {
	if p.Base == 0 {
		return p.Remote.String()
	}
	return fmt.Sprintf("%v from base %d", p.Remote, p.Base)
}

// A PathKind says what lies between the two ends. Smaller is better.
type PathKind uint8

// The kinds, best first.
const (
	LAN    PathKind = iota // the remote is private, unique local, or on one of our own links
	Direct                 // through the internet, no relay
	Relay                  // through a relay on either side
)

func (k PathKind) String() string {
	switch k {
	case LAN:
		return "lan"
	case Direct:
		return "direct"
	case Relay:
		return "relay"
	}
	return fmt.Sprintf("path kind %d", uint8(k))
}

// A State is what is known of a path.
//
//	Waiting ──▶ Checking    Start is reached, or the spare is needed
//	Checking ─▶ Heard       first inbound ping
//	         ─▶ Confirmed   our check is answered
//	         ─▶ Failed      SessionConfig.Duration without
//	         ─▶ Waiting     needless: another path of its kind works
//	Heard ────▶ Confirmed   our check is answered
//	      ────▶ Failed      2 s without
//	Confirmed ▶ Failed      four probes unanswered
//	          ▶ Checking    the peer says that ours do not arrive
//	          ▶ Waiting     not needed, by the peer either
//	Failed ───▶ Heard       inbound ping, for the first time
//	       ───▶ Checking    inbound ping, after a failure in Heard or Confirmed
//	       ───▶ Confirmed   a recheck is answered
//
// Waiting goes to Heard by an inbound ping as Checking does. Any state goes to Failed when its base
// is removed or cannot send, and to Waiting by Restart.
type State uint8

const (
	// Waiting: no check is due. Before SessionConfig.Start, or a spare that works or may
	// work but is not needed. Ends with Start, with a ping, or when the paths in use fail.
	Waiting State = iota
	// Checking: checks are sent, nothing authentic arrived. Ends with the first ping or
	// pong, or after SessionConfig.Duration.
	Checking
	// Heard: an authenticated fresh ping arrived: the peer is there, though what we send
	// need not arrive. May carry a little data. Ends with an answer to our check or after 2 s without.
	Heard
	// Confirmed: our check was answered from the very address it was sent to. Ends when
	// a keepalive or Probe stays unanswered, or when the path is not needed.
	Confirmed
	// Failed: PathStatus.FailWhy says why. Checked again, slowly, where it would be an
	// improvement, and at once when a ping comes in.
	Failed
)

func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Checking:
		return "checking"
	case Heard:
		return "heard"
	case Confirmed:
		return "confirmed"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// path is one Path's state. Only setState writes state, only classify kind and rank.
type path struct {
	Path
	remote *remote
	kind   PathKind
	rank   rank

	state       State
	run         run
	why         string    // of the last failure
	doubtedAt   time.Time // what we send need not arrive: heard, or failed, since then and not answered since
	confirmedAt time.Time // entered Confirmed last; zero: never was
	answeredAt  time.Time // the last answer to a check of ours
	lastHeard   time.Time // any authentic check
	lastPing    time.Time // the peer's own interest in this path
	tally       tally
}

// tally is what the checks of a path measured.
type tally struct {
	rtt, rttVar    time.Duration // smoothed, RFC 6298
	observed       netip.AddrPort
	peerConfirmed  bool // the peer says that its checks are answered
	sent, received int  // checks, both types
	sendErrs       int  // in a row
}

// run is one effort: the checks from Checking to an outcome, one probe with its
// retransmissions, or the slow rechecks of a failed path.
type run struct {
	started time.Time
	tries   int           // checks sent in this run
	backoff time.Duration // the interval used last
	next    time.Time     // when something is due; zero: never
}

// rank orders the pairs within a round, useful ones first. It does not say which
// path is better once it works: that is the user's business.
type rank uint8

const (
	rankOnLink    rank = iota // on one of our own links
	rankPublic                // a mapped or public address
	rankToRelay               // our socket to the peer's relay
	rankFromRelay             // our relay to the peer's mapped or public address
	rankRelays                // relay to relay
	rankRare                  // private address of another network: few checks
)

// classify sets what follows from the two ends of p.
func (s *Session) classify(p *path) {
	onLink := s.onLink(p.Remote.Addr())
	p.kind = kindOf(p, onLink)
	p.rank = rankOf(p, onLink)
}

func rankOf(p *path, onLink bool) rank {
	switch {
	case p.Base == 0 && onLink:
		return rankOnLink
	case p.remote.kind == Host && isPrivate(p.Remote.Addr()):
		return rankRare
	case p.Base == 0 && p.remote.kind == Relayed:
		return rankToRelay
	case p.Base == 0:
		return rankPublic
	case p.remote.kind == Relayed:
		return rankRelays
	}
	return rankFromRelay
}

func kindOf(p *path, onLink bool) PathKind {
	addr := p.Remote.Addr()
	switch {
	case p.Base != 0 || p.remote.kind == Relayed:
		return Relay
	case onLink || addr.IsPrivate() || addr.IsLinkLocalUnicast() || addr.IsLoopback():
		return LAN
	}
	return Direct
}

func (s *Session) onLink(a netip.Addr) bool {
	for _, p := range s.cfg.LocalPrefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: between carrier and home

// isPrivate: only reachable within one network.
func isPrivate(a netip.Addr) bool { return a.IsPrivate() || sharedSpace.Contains(a) }

// via names the relay that the path goes through: ours, else the peer's.
func (s *Session) via(p *path) string {
	if b, ok := s.bases[p.Base]; ok && b.Via != "" {
		return b.Via
	}
	return p.remote.via
}

// A PathStatus is a snapshot of one path.
type PathStatus struct {
	Path      Path
	Kind      PathKind
	Candidate Kind   // of the remote
	Via       string // the relay's name, where one is known
	State     State

	RTT            time.Duration  // smoothed (RFC 6298), zero before the first pong
	Confirmed      time.Time      // when it was entered last; zero: never
	Answered       time.Time      // when a check of ours was answered last; zero: never
	LastHeard      time.Time      // the last authentic check; zero: none
	Observed       netip.AddrPort // where the peer sees our packets come from, as the last pong said
	PeerConfirmed  bool           // the peer's checks over this path are answered too
	Sent, Received int            // checks

	FailWhy string // why it failed, or why it does not work yet
}

// status takes the snapshot as of now.
func (s *Session) status(now time.Time, p *path) PathStatus {
	return PathStatus{
		Path: p.Path, Kind: p.kind, Candidate: p.remote.kind, Via: s.via(p), State: p.state,
		RTT: p.tally.rtt, Confirmed: p.confirmedAt, Answered: p.answeredAt, LastHeard: p.lastHeard, Observed: p.tally.observed, PeerConfirmed: p.tally.peerConfirmed,
		Sent: p.tally.sent, Received: p.tally.received, FailWhy: p.whyNot(now),
	}
}

// whyNot says what keeps p from working: the recorded reason of a failure, or what
// would be the reason if all ended now.
func (p *path) whyNot(now time.Time) string {
	switch p.state {
	case Waiting:
		if p.why != "" {
			return p.why
		}
		return fmt.Sprintf("no check was sent to %v yet", p.Remote)
	case Checking:
		if !p.confirmedAt.IsZero() {
			return p.why
		}
		return unanswered(now, p)
	case Heard:
		return fmt.Sprintf("%v was heard, but our checks are not answered: %s", p.Remote, unanswered(now, p))
	case Failed:
		return p.why
	case Confirmed:
	}
	return ""
}

func unanswered(now time.Time, p *path) string {
	return fmt.Sprintf("no answer to %s sent to %v in %s", plural(p.run.tries, "check"), p.Remote, seconds(now.Sub(p.run.started)))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", max(d, 0).Seconds()) }
