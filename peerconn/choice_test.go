package peerconn

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
)

// status is a path to a numbered remote.
func status(n byte, kind holepunch.PathKind, state holepunch.State, rtt time.Duration) holepunch.PathStatus {
	s := holepunch.PathStatus{Kind: kind, State: state, RTT: rtt}
	s.Path.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 4000)
	if kind == holepunch.Relay {
		s.Path.Base, s.Via = 1, "relay"
	}
	return s
}

const (
	ms        = time.Millisecond
	waiting   = holepunch.Waiting
	heard     = holepunch.Heard
	confirmed = holepunch.Confirmed
	failed    = holepunch.Failed
)

func TestBest(t *testing.T) {
	const lan, direct, relay = holepunch.LAN, holepunch.Direct, holepunch.Relay
	list := func(s ...holepunch.PathStatus) []holepunch.PathStatus { return s }
	for name, test := range map[string]struct {
		inUse byte // the remote's number, 0: none
		since time.Duration
		paths []holepunch.PathStatus
		want  byte // 0: none
	}{
		"nothing":                         {0, 0, nil, 0},
		"nothing usable":                  {0, 0, list(status(1, lan, waiting, 0), status(2, relay, failed, 0)), 0},
		"heard is enough":                 {0, 0, list(status(1, direct, heard, 0)), 1},
		"confirmed before heard":          {0, 0, list(status(1, direct, heard, 0), status(2, direct, confirmed, 9*ms)), 2},
		"lan before direct":               {0, 0, list(status(1, direct, confirmed, ms), status(2, lan, confirmed, 9*ms)), 2},
		"direct before relay":             {0, 0, list(status(1, relay, confirmed, ms), status(2, direct, heard, 0)), 2},
		"the faster":                      {0, 0, list(status(1, direct, confirmed, 9*ms), status(2, direct, confirmed, 8*ms)), 2},
		"measured before unmeasured":      {0, 0, list(status(1, direct, confirmed, 0), status(2, direct, confirmed, 80*ms)), 2},
		"the first of equals":             {0, 0, list(status(1, direct, confirmed, 8*ms), status(2, direct, confirmed, 8*ms)), 1},
		"up from the relay at once":       {1, 0, list(status(1, relay, confirmed, ms), status(2, direct, confirmed, 90*ms)), 2},
		"not before it is confirmed":      {1, 0, list(status(1, relay, confirmed, ms), status(2, direct, heard, 0)), 1},
		"down when it failed":             {1, 0, list(status(1, direct, failed, ms), status(2, relay, confirmed, 90*ms)), 2},
		"down to one that is only heard":  {1, 0, list(status(1, direct, failed, ms), status(2, relay, heard, 0)), 2},
		"clearly faster, settled":         {1, settleTime, list(status(1, direct, confirmed, 50*ms), status(2, direct, confirmed, 30*ms)), 2},
		"clearly faster, but young":       {1, settleTime - 1, list(status(1, direct, confirmed, 50*ms), status(2, direct, confirmed, 30*ms)), 1},
		"a little faster":                 {1, time.Hour, list(status(1, direct, confirmed, 50*ms), status(2, direct, confirmed, 46*ms)), 1},
		"much faster, but by few ms":      {1, time.Hour, list(status(1, direct, confirmed, 6*ms), status(2, direct, confirmed, 2*ms)), 1},
		"many ms, but a small part":       {1, time.Hour, list(status(1, direct, confirmed, 300*ms), status(2, direct, confirmed, 250*ms)), 1},
		"confirmed relieves heard":        {1, 0, list(status(1, direct, heard, 0), status(2, direct, confirmed, 50*ms)), 2},
		"gone from the list":              {9, 0, list(status(1, relay, confirmed, 50*ms)), 1},
		"all failed":                      {1, 0, list(status(1, direct, failed, 0), status(2, relay, failed, 0)), 0},
		"the other relay, if it is worth": {1, time.Hour, list(status(1, relay, confirmed, 90*ms), status(2, relay, confirmed, 20*ms)), 2},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := testSocket(newFakeConn())
			r := testRoute(t, s)
			now := time.Now()
			r.since = now.Add(-test.since)
			if test.inUse != 0 {
				at := status(test.inUse, holepunch.Direct, confirmed, 0).Path
				for _, p := range test.paths {
					if p.Path.Remote == at.Remote {
						at = p.Path
					}
				}
				r.target.Store(&target{path: at})
			}
			best, found := r.best(test.paths, now)
			if !found && test.want != 0 || found && best.Path.Remote.Addr().As4()[3] != test.want {
				t.Errorf("chose %v (%v), want number %d", best.Path, found, test.want)
			}
		})
	}
}

func TestWhy(t *testing.T) {
	old := &target{path: status(1, holepunch.Relay, 0, 0).Path}
	direct := status(2, holepunch.Direct, confirmed, 0)
	gone := status(1, holepunch.Relay, failed, 0)
	reason := gone
	reason.FailWhy = "no answer to 4 probes"
	for want, test := range map[string]struct {
		old   *target
		paths []holepunch.PathStatus
	}{
		"first path that works":                         {nil, []holepunch.PathStatus{direct}},
		"a direct path was found":                       {old, []holepunch.PathStatus{status(1, holepunch.Relay, confirmed, 0), direct}},
		"a faster path was found":                       {old, []holepunch.PathStatus{{Path: old.path, Kind: holepunch.Direct, State: confirmed}, direct}},
		"the path before failed":                        {old, []holepunch.PathStatus{gone, direct}},
		"the path before failed: no answer to 4 probes": {old, []holepunch.PathStatus{reason, direct}},
		"the path before is gone":                       {old, []holepunch.PathStatus{direct}},
	} {
		if got := why(direct, test.old, test.paths); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestPathText(t *testing.T) {
	for want, p := range map[string]Path{
		"none":                      {},
		"direct 5.1.2.3:4242":       {Kind: PathDirect, Remote: addr("5.1.2.3:4242")},
		"lan [fe80::1]:9 (1.2 ms)":  {Kind: PathLAN, Remote: addr("[fe80::1]:9"), RTT: 1234 * time.Microsecond},
		"relay 5.1.2.3:4 via eu1":   {Kind: PathRelay, Remote: addr("5.1.2.3:4"), Via: "eu1"},
		"node via node 5.6.7.8:478": {Kind: PathNode, Via: "node 5.6.7.8:478"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		slower := p
		slower.RTT += ms
		if other := (Path{Kind: p.Kind, Via: "another"}); !p.same(slower) || p.same(other) {
			t.Errorf("%s: the round trip counts, or the rest does not", want)
		}
		if p.Kind.Direct() != (p.Kind == PathDirect || p.Kind == PathLAN) {
			t.Errorf("%s: direct is %v", want, p.Kind.Direct())
		}
	}
}

// What QUIC writes before there is a path leaves, in its order, when there is one;
// a relay that is gone is no path.
func TestUseFlushesInOrder(t *testing.T) {
	pc := newFakeConn()
	s, _ := testSocket(pc)
	r := testRoute(t, s)
	var events []Event
	r.onEvent = func(e Event) { events = append(events, e) }
	for _, d := range []string{"1", "2", "3"} {
		check(t, r.write([]byte(d), 0))
	}
	now := time.Now()
	r.mu.Lock()
	relayed, direct := status(7, holepunch.Relay, confirmed, 0), status(1, holepunch.Direct, confirmed, 0)
	r.use(relayed, nil, []holepunch.PathStatus{relayed}, now)
	if r.target.Load() != nil {
		t.Error("a relay that does not exist was chosen")
	}
	r.use(direct, nil, []holepunch.PathStatus{direct}, now)
	r.mu.Unlock()
	check(t, r.write([]byte("4"), 0))
	if got := sentTo(pc, "192.0.2.1:4000"); got != "1234" {
		t.Errorf("sent %q", got)
	}
	select {
	case <-r.first:
	default:
		t.Error("nobody is told of the first path")
	}
	if len(events) != 1 || events[0].To.Kind != PathDirect || events[0].Why != "first path that works" {
		t.Errorf("events %v", events)
	}
}

// A path in doubt has its data doubled over the spare, which begins with the last
// datagram; a move ends the doubt.
func TestHedge(t *testing.T) {
	pc := newFakeConn()
	s, _ := testSocket(pc)
	r := testRoute(t, s)
	now := time.Now()
	one, two := status(1, holepunch.Direct, confirmed, ms), status(2, holepunch.Direct, confirmed, ms)
	r.mu.Lock()
	r.use(one, nil, []holepunch.PathStatus{one, two}, now)
	r.mu.Unlock()
	check(t, r.write([]byte("a"), 0))
	r.mu.Lock()
	r.doubt(now) // the session knows no spare
	r.mu.Unlock()
	if r.hedge.Load() != nil {
		t.Error("hedged without a spare")
	}
	spare := r.targetOf(two)
	r.hedge.Store(spare)
	r.doubted = now
	r.repeatTail(spare)
	check(t, r.write([]byte("b"), 0))
	if first, second := sentTo(pc, "192.0.2.1:4000"), sentTo(pc, "192.0.2.2:4000"); first != "ab" || second != "ab" {
		t.Errorf("sent %q on the path in doubt and %q on the spare", first, second)
	}
	r.mu.Lock()
	r.reviewHedge(now.Add(hedgeLimit))
	if r.hedge.Load() == nil {
		t.Error("the doubt ended early")
	}
	r.reviewHedge(now.Add(hedgeLimit + 1))
	if r.hedge.Load() != nil {
		t.Error("the doubt does not end")
	}
	r.hedge.Store(spare)
	r.use(two, r.target.Load(), []holepunch.PathStatus{one, two}, now)
	r.mu.Unlock()
	if r.hedge.Load() != nil {
		t.Error("the doubt outlives the path")
	}
}

// An error of the socket is no error for QUIC, which would end the connection; the
// path is looked into.
func TestWriteErrors(t *testing.T) {
	s, _ := testSocket(newFakeConn())
	r := testRoute(t, s)
	r.target.Store(&target{remote: net.UDPAddrFromAddrPort(addr("192.0.2.1:1")), relay: &failingRelay{errors.New("no buffer space")}})
	if err := r.write([]byte("x"), 0); err != nil {
		t.Errorf("QUIC hears of %v", err)
	}
	select {
	case <-r.wakeup:
	default:
		t.Error("nobody looks into the path")
	}
}

type failingRelay struct{ err error }

func (r *failingRelay) WriteTo([]byte, netip.AddrPort) (int, error) { return 0, r.err }

// sentTo joins what was sent to an address.
func sentTo(pc *fakeConn, to string) (all string) {
	pc.mu.Lock()
	defer pc.mu.Unlock()
	for _, l := range pc.sent {
		if l.from.String() == to {
			all += string(l.b)
		}
	}
	return all
}
