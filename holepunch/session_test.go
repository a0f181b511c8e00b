package holepunch

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// testSession is one Session with the peer's keys in the test's hand, so that a
// test reads as a transcript: write… is what the peer does, want… what the session must do.
type testSession struct {
	*testing.T
	s     *Session
	peer  checkKeys
	count uint64 // the peer's counter
	began time.Time
	now   time.Time
	sent  []testPacket // not yet wanted
}

type testPacket struct {
	at   time.Duration // since the beginning
	path Path
	check
}

func newTestSession(t *testing.T, cfg SessionConfig, remotes ...string) *testSession {
	t.Helper()
	cfg.Secret = [32]byte{1, 2, 3}
	now := time.Unix(1_000_000, 0)
	ts := &testSession{T: t, s: NewSession(cfg), peer: newCheckKeys(cfg.Secret, !cfg.Caller), began: now, now: now}
	ts.add(ServerReflexive, remotes...)
	return ts
}

func (ts *testSession) add(k Kind, remotes ...string) {
	for _, r := range remotes {
		ts.s.AddRemote(ts.now, Candidate{Kind: k, Addr: netip.MustParseAddrPort(r)})
	}
}

func testPath(remote string) Path { return Path{Remote: netip.MustParseAddrPort(remote)} }

// advance lets time pass, polling whenever the session asked for it.
func (ts *testSession) advance(d time.Duration) {
	ts.Helper()
	end := ts.now.Add(d)
	for range 100_000 {
		next := ts.poll()
		if next.IsZero() || next.After(end) {
			ts.now = end
			return
		}
		if !next.After(ts.now) {
			ts.Fatalf("at %v: Poll asks to be called at %v, which is not later", ts.since(), next.Sub(ts.began))
		}
		ts.now = next
	}
	ts.Fatalf("Poll does not come to rest")
}

func (ts *testSession) since() time.Duration { return ts.now.Sub(ts.began) }

func (ts *testSession) poll() time.Time {
	ts.Helper()
	out, next := ts.s.Poll(ts.now)
	for _, o := range out {
		c, err := ts.peer.open(o.Bytes)
		if err != nil {
			ts.Fatalf("the peer cannot read a check: %v", err)
		}
		ts.sent = append(ts.sent, testPacket{ts.since(), o.Path, c})
	}
	return next
}

// take removes the first packet to remote of the type.
func (ts *testSession) take(typ checkType, p Path) (testPacket, bool) {
	for i, o := range ts.sent {
		if o.typ == typ && o.path == p {
			ts.sent = append(ts.sent[:i], ts.sent[i+1:]...)
			return o, true
		}
	}
	return testPacket{}, false
}

func (ts *testSession) wantPing(p Path, why string) testPacket {
	ts.Helper()
	ts.poll()
	o, ok := ts.take(ping, p)
	if !ok {
		ts.Fatalf("at %v: no check to %v: %s", ts.since(), p, why)
	}
	return o
}

func (ts *testSession) wantPong(p Path, why string) testPacket {
	ts.Helper()
	ts.poll()
	o, ok := ts.take(pong, p)
	if !ok {
		ts.Fatalf("at %v: no answer to %v: %s", ts.since(), p, why)
	}
	return o
}

func (ts *testSession) wantIdle(why string) {
	ts.Helper()
	ts.poll()
	if len(ts.sent) != 0 {
		ts.Fatalf("at %v: %d packets sent, the first %+v: %s", ts.since(), len(ts.sent), ts.sent[0], why)
	}
}

// wantCount counts the pings to a path since the last call and forgets them.
func (ts *testSession) wantCount(p Path, least, most int, why string) []time.Duration {
	ts.Helper()
	ts.poll()
	var at []time.Duration
	for {
		o, ok := ts.take(ping, p)
		if !ok {
			break
		}
		at = append(at, o.at)
	}
	if len(at) < least || len(at) > most {
		ts.Fatalf("at %v: %d checks to %v, want %d to %d: %s\n%v", ts.since(), len(at), p, least, most, why, at)
	}
	return at
}

func (ts *testSession) forget() { ts.poll(); ts.sent = nil }

func (ts *testSession) seal(c check) []byte {
	ts.count++
	c.counter = ts.count
	return ts.peer.seal(nil, c)
}

func (ts *testSession) receive(p Path, b []byte, want error, why string) {
	ts.Helper()
	if err := ts.s.Receive(ts.now, p, b); !errors.Is(err, want) {
		ts.Fatalf("at %v: Receive from %v: %v, want %v: %s", ts.since(), p, err, want, why)
	}
}

// writePing lets the peer check p, and returns the packet.
func (ts *testSession) writePing(p Path, flags checkFlags) []byte {
	ts.Helper()
	b := ts.seal(check{typ: ping, flags: flags, txid: newTransaction()})
	ts.receive(p, b, nil, "an authentic ping")
	return b
}

// writePong lets the peer answer.
func (ts *testSession) writePong(to testPacket, flags checkFlags) {
	ts.Helper()
	ts.receive(to.path, ts.seal(check{typ: pong, flags: flags, txid: to.txid, observed: netip.MustParseAddrPort("198.51.100.77:7777")}), nil, "an authentic pong")
}

func (ts *testSession) status(p Path) PathStatus {
	ts.Helper()
	for _, s := range ts.s.Paths() {
		if s.Path == p {
			return s
		}
	}
	ts.Fatalf("at %v: path %v is not known", ts.since(), p)
	return PathStatus{}
}

func (ts *testSession) wantState(p Path, want State, why string) PathStatus {
	ts.Helper()
	s := ts.status(p)
	if s.State != want {
		ts.Fatalf("at %v: %v is %v (%s), want %v: %s", ts.since(), p, s.State, s.FailWhy, want, why)
	}
	return s
}

func (ts *testSession) wantWhy(p Path, parts ...string) {
	ts.Helper()
	got := ts.status(p).FailWhy
	for _, part := range parts {
		if !strings.Contains(got, part) {
			ts.Errorf("FailWhy of %v is %q, want %q in it", p, got, part)
		}
	}
}

// confirm brings p to Confirmed with the given round trip, and clears what was sent.
func (ts *testSession) confirm(p Path, rtt time.Duration) {
	ts.Helper()
	ts.writePing(p, flagConfirmed)
	o := ts.wantPing(p, "a triggered check")
	ts.advance(rtt)
	ts.writePong(o, flagConfirmed)
	ts.wantState(p, Confirmed, "our check was answered")
	ts.forget()
}

const ms = time.Millisecond

func TestNoCheckBeforeStart(t *testing.T) {
	ts := newTestSession(t, SessionConfig{Start: time.Unix(1_000_000, 0).Add(70 * ms)}, "192.0.2.1:4000")
	ts.advance(69 * ms)
	ts.wantIdle("Start is not reached")
	ts.wantState(testPath("192.0.2.1:4000"), Waiting, "Start is not reached")
	ts.advance(1 * ms)
	ts.wantPing(testPath("192.0.2.1:4000"), "Start is reached")
	ts.wantState(testPath("192.0.2.1:4000"), Checking, "a check was sent")
}

func TestPingBeforeStartIsAnswered(t *testing.T) {
	ts := newTestSession(t, SessionConfig{Start: time.Unix(1_000_000, 0).Add(70 * ms)}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.writePing(p, 0)
	ts.wantPong(p, "the peer's packet came in, so the hole is open")
	ts.wantPing(p, "RFC 8445 section 7.3.1.4: triggered check")
	ts.wantState(p, Heard, "an authentic check came in")
}

func TestCadence(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.advance(299 * ms)
	for i, at := range ts.wantCount(p, 15, 15, "a round every 20 ms for 300 ms") {
		if want := time.Duration(i) * 20 * ms; at != want {
			t.Errorf("check %d left at %v, want %v", i, at, want)
		}
	}
	ts.advance(351 * ms)
	at := ts.wantCount(p, 4, 4, "then it backs off")
	if got, want := fmt.Sprint(at), "[300ms 350ms 450ms 650ms]"; got != want {
		t.Errorf("checks at %s, want %s", got, want)
	}
	ts.advance(9350*ms + 1)
	ts.wantCount(p, 8, 11, "at most one a second")
	ts.wantState(p, Failed, "10 s without an answer")
	ts.wantWhy(p, "no answer to 2", "checks sent to 192.0.2.1:4000 in 10.0 s")
	ts.advance(time.Hour)
	ts.wantIdle("nothing ever worked, so nothing can be improved")
	if next := ts.poll(); !next.IsZero() {
		t.Errorf("a failed session wants to be woken at %v", next)
	}
}

func TestWhyBeforeTheEnd(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	ts.advance(5 * time.Second)
	ts.s.Poll(ts.now)
	ts.wantWhy(testPath("192.0.2.1:4000"), "no answer to", "in 5.0 s")
}

func TestConfirm(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	v := ts.s.Version()
	first := ts.wantPing(p, "the first round")
	ts.advance(15 * ms)
	ts.writePong(first, 0)
	s := ts.wantState(p, Confirmed, "our check was answered")
	if s.RTT != 15*ms || s.Kind != Direct || s.Observed != netip.MustParseAddrPort("198.51.100.77:7777") || s.FailWhy != "" {
		t.Errorf("status %+v", s)
	}
	if ts.s.Version() == v {
		t.Errorf("Version did not change")
	}
	if o := ts.wantPing(p, "the news"); o.flags&flagConfirmed == 0 {
		t.Errorf("the peer is not told that we are confirmed")
	}
	ts.advance(1*time.Second - 1)
	ts.wantIdle("a confirmed path is not checked on")
	ts.advance(1)
	ts.wantPing(p, "settling after 1 s")
}

func TestLostChecksDelayByOneRound(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	for range 7 {
		ts.wantPing(p, "a round")
		ts.advance(20 * ms)
	}
	o := ts.wantPing(p, "the eighth, which arrives")
	ts.advance(5 * ms)
	ts.writePong(o, 0)
	if s := ts.wantState(p, Confirmed, "one check of eight was enough"); s.RTT != 5*ms {
		t.Errorf("RTT %v is not of the check that was answered", s.RTT)
	}
}

func TestPeerReflexive(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	stranger := testPath("192.0.2.1:5555")
	ts.writePing(stranger, 0)
	if o := ts.wantPong(stranger, "answered at once"); o.observed != stranger.Remote {
		t.Errorf("the answer says %v", o.observed)
	}
	check := ts.wantPing(stranger, "checked at once in the other direction")
	if s := ts.wantState(stranger, Heard, "learned"); s.Candidate != PeerReflexive {
		t.Errorf("learned as %v", s.Candidate)
	}
	ts.writePong(check, 0)
	ts.wantState(stranger, Confirmed, "answered")
	ts.add(ServerReflexive, "192.0.2.1:5555")
	if s := ts.wantState(stranger, Confirmed, "signalled later"); s.Candidate != ServerReflexive {
		t.Errorf("still %v after it was signalled", s.Candidate)
	}
}

func TestPeerReflexiveOfRelay(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	p := testPath("192.0.2.9:50000")
	ts.writePing(p, flagRelayed)
	if s := ts.status(p); s.Kind != Relay || s.Candidate != Relayed {
		t.Errorf("a check out of the peer's relay makes %+v", s)
	}
}

func TestPeerReflexiveIsBounded(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	for i := range MaxPeerReflexive {
		ts.writePing(testPath(fmt.Sprintf("192.0.2.1:%d", 2000+i)), 0)
	}
	one := ts.seal(check{typ: ping, txid: 1})
	ts.receive(testPath("192.0.2.1:3000"), one, ErrLimit, "one too many")
	if n := len(ts.s.Paths()); n != MaxPeerReflexive {
		t.Errorf("%d paths", n)
	}
	ts.advance(3 * time.Second) // all fail: nothing is answered
	ts.writePing(testPath("192.0.2.1:3000"), 0)
	if n := len(ts.s.Paths()); n != MaxPeerReflexive {
		t.Errorf("%d paths after one made room", n)
	}
}

func TestForgeriesChangeNothing(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p, elsewhere := testPath("192.0.2.1:4000"), testPath("203.0.113.66:6666")
	out, _ := ts.s.Poll(ts.now)
	version := ts.s.Version()

	ts.receive(p, out[0].Bytes, ErrForged, "our own check, reflected")
	stranger := newCheckKeys([32]byte{9}, true)
	ts.receive(p, stranger.seal(nil, check{typ: ping, counter: 1, txid: 1}), ErrForged, "another session's secret")
	wrongKey := stranger
	wrongKey.outTag = ts.s.Tag()
	ts.receive(p, wrongKey.seal(nil, check{typ: ping, counter: 1, txid: 1}), ErrForged, "the right tag and the wrong key")
	good := ts.seal(check{typ: ping, txid: 1})
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x40
		if err := ts.s.Receive(ts.now, elsewhere, bad); !errors.Is(err, ErrForged) && !errors.Is(err, ErrMalformed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if err := ts.s.Receive(ts.now, elsewhere, good[:i]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut to %d bytes: %v", i, err)
		}
	}
	if ts.s.Version() != version || len(ts.s.Paths()) != 1 {
		t.Errorf("a forgery changed the session")
	}
	ts.wantIdle("nobody is answered")
}

// A replayed check must not validate a path from another address.
func TestReplay(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p, thief := testPath("192.0.2.1:4000"), testPath("203.0.113.66:6666")
	captured := ts.writePing(p, 0)
	ts.forget()
	ts.receive(thief, captured, ErrReplay, "a captured check from another address")
	ts.receive(p, captured, ErrReplay, "and from the same")
	ts.wantIdle("no answer to a replay")
	if n := len(ts.s.Paths()); n != 1 {
		t.Errorf("%d paths: the replay was learned", n)
	}
}

func TestPongFromElsewhere(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000", "192.0.2.1:4001")
	o := ts.wantPing(testPath("192.0.2.1:4000"), "the first round")
	o.path = testPath("192.0.2.1:4001")
	ts.receive(o.path, ts.seal(check{typ: pong, txid: o.txid, observed: o.path.Remote}), ErrReplay, "the answer to a check that went elsewhere")
	ts.wantState(o.path, Checking, "RFC 8445 section 7.2.5.2.1: not symmetric")
	ts.wantState(testPath("192.0.2.1:4000"), Checking, "nor is the other one answered")
	ts.receive(o.path, ts.seal(check{typ: pong, txid: 4711, observed: o.path.Remote}), ErrReplay, "the answer to nothing")
}

func TestForbiddenSources(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	for _, from := range []string{"192.0.2.1:1023", "127.0.0.1:5000", "[::ffff:127.0.0.1]:5000", "224.0.0.1:5000", "169.254.169.254:8080", "[fe80::1]:5000", "0.0.0.0:5000"} {
		ts.receive(testPath(from), ts.seal(check{typ: ping, txid: 1}), ErrForbidden, "never punched to")
	}
	ts.receive(Path{Base: 3, Remote: netip.MustParseAddrPort("192.0.2.1:4000")}, ts.seal(check{typ: ping, txid: 1}), ErrNoBase, "no such allocation")
	ts.add(Host, "127.0.0.1:4000", "10.0.0.1:53", "255.255.255.255:4000")
	ts.advance(time.Second)
	ts.wantIdle("nothing to check")
}

func TestHeardWithoutConsentFails(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	p := testPath("192.0.2.1:5555")
	ts.writePing(p, 0)
	ts.advance(1999 * ms)
	ts.wantState(p, Heard, "not yet 2 s")
	ts.advance(2 * ms)
	ts.wantState(p, Failed, "2 s without an answer to our checks")
	ts.wantWhy(p, "192.0.2.1:5555 was heard, but our checks are not answered", "no answer to", "in 2.0 s")
	ts.forget()

	ts.writePing(p, 0)
	ts.wantPong(p, "the peer is answered whatever we think")
	o := ts.wantPing(p, "and checked again")
	ts.wantState(p, Checking, "heard is not enough any more: it must not carry data for another 2 s")
	ts.writePong(o, 0)
	ts.wantState(p, Confirmed, "an answer is")
}

func TestKeepalive(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.confirm(p, 40*ms)
	ts.s.SetActive(p)
	ts.advance(time.Second)
	ts.writePong(ts.wantPing(p, "settling"), flagConfirmed)
	for range 3 {
		ts.advance(15*time.Second - 1)
		ts.wantIdle("not due")
		ts.advance(1)
		ts.writePong(ts.wantPing(p, "every 15 s"), flagConfirmed)
	}
	ts.wantState(p, Confirmed, "the keepalive is only just sent")
}

func TestKeepaliveUnansweredFails(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.confirm(p, 40*ms)
	ts.advance(3 * time.Second)
	at := ts.wantCount(p, 6, 7, "four probes, the news, then rechecks")
	// 1.2 round trips of 40 ms, then half of one, but 30 ms at least.
	if got := fmt.Sprint(at[1]-at[0], at[2]-at[1], at[3]-at[2]); got != "48ms 30ms 30ms" {
		t.Errorf("probes %s apart", got)
	}
	if verdict := at[4] - at[0]; verdict != 300*ms {
		t.Errorf("verdict after %v", verdict)
	}
	ts.wantState(p, Failed, "unanswered")
	ts.wantWhy(p, "worked, then no answer to 4 probes sent to 192.0.2.1:4000 in 0.3 s")
	ts.advance(time.Minute)
	ts.wantCount(p, 3, 7, "rechecked, ever more rarely, because it once worked")
	ts.writePing(p, 0)
	ts.wantState(p, Checking, "an inbound ping revives it, but it must not carry data yet")
	ts.writePong(ts.wantPing(p, "a triggered check"), 0)
	ts.wantState(p, Confirmed, "an answer is proof")
}

// A path that dies in one direction only: the side whose packets still arrive tells the other.
func TestOneWayFailure(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.confirm(p, 10*ms)
	ts.writePing(p, flagUnanswered)
	ts.wantState(p, Checking, "the peer says that nothing of ours arrives")
	ts.wantWhy(p, "192.0.2.1:4000 said that nothing of ours arrives")
	ts.writePing(p, flagUnanswered)
	ts.writePing(p, 0)
	ts.wantState(p, Checking, "pings of the peer do not change that")
	ts.writePong(ts.wantPing(p, "checked at once"), flagConfirmed)
	ts.wantState(p, Confirmed, "an answer does")
	ts.forget()

	ts.s.Probe(ts.now, p)
	ts.advance(301 * ms)
	ts.wantState(p, Failed, "no answer")
	for range 4 {
		if o := ts.wantPing(p, "a probe"); o.flags&flagUnanswered != 0 {
			t.Errorf("a probe says that nothing arrives, before that is known")
		}
	}
	if o := ts.wantPing(p, "the news"); o.flags&flagUnanswered == 0 {
		t.Errorf("the peer is not told that nothing of it arrives")
	}
}

func TestProbe(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.confirm(p, 10*ms)
	ts.s.Probe(ts.now, p)
	o := ts.wantPing(p, "suspicion")
	ts.s.Probe(ts.now, p)
	ts.wantIdle("one probe is under way")
	ts.advance(5 * ms)
	ts.writePong(o, 0)
	ts.advance(500 * ms)
	ts.wantIdle("it was answered")
	ts.wantState(p, Confirmed, "it was answered")

	ts.s.Probe(ts.now, p)
	ts.advance(299 * ms)
	ts.wantState(p, Confirmed, "the last probe may still be answered")
	ts.wantCount(p, 4, 4, "up to four")
	ts.advance(1 * ms)
	ts.wantState(p, Failed, "300 ms, though the round trip is 10: a queue may have filled")
	ts.forget()
	ts.s.Probe(ts.now, p)
	ts.writePong(ts.wantPing(p, "a failed path is checked once"), 0)
	ts.wantState(p, Confirmed, "and comes back")
	ts.s.Probe(ts.now, testPath("192.0.2.1:9999")) // unknown: nothing happens
}

// On a slow path the verdict takes less than two round trips.
func TestProbeOfSlowPath(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.confirm(p, 200*ms)
	for range 20 {
		ts.s.Probe(ts.now, p)
		o := ts.wantPing(p, "a probe")
		ts.advance(200 * ms)
		ts.writePong(o, 0)
		ts.forget()
	}
	ts.wantState(p, Confirmed, "answered every time")
	ts.s.Probe(ts.now, p)
	ts.advance(289 * ms) // three times 30, then the timeout: 200 and what is left of the variance
	ts.wantState(p, Confirmed, "the last probe may still be answered")
	ts.advance(60 * ms)
	ts.wantState(p, Failed, "less than two round trips")
	ts.wantCount(p, 5, 5, "four probes and the news")
}

func TestSparesAreDropped(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000", "192.0.2.1:4001", "192.0.2.1:4002", "192.0.2.1:4003")
	for i := range 4 {
		ts.confirm(testPath(fmt.Sprintf("192.0.2.1:%d", 4000+i)), time.Duration(10+i)*ms)
	}
	active := testPath("192.0.2.1:4003")
	ts.s.SetActive(active)
	kept := map[uint16]int{}
	for range 12_000 {
		ts.advance(5 * ms)
		for _, o := range ts.sent {
			kept[o.path.Remote.Port()]++
			ts.writePong(o, flagConfirmed)
		}
		ts.sent = nil
	}
	ts.wantState(active, Confirmed, "it is active, though the slowest")
	ts.wantState(testPath("192.0.2.1:4000"), Confirmed, "the best beside it")
	dropped := ts.wantState(testPath("192.0.2.1:4002"), Waiting, "not needed")
	if !strings.Contains(dropped.FailWhy, "not needed") {
		t.Errorf("FailWhy %q", dropped.FailWhy)
	}
	if kept[4003] < 4 || kept[4000] < 4 || kept[4002] > 1 {
		t.Errorf("keepalives by port: %v", kept)
	}
}

func TestSparesAreTriedWhenAllFails(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p, silent := testPath("192.0.2.1:4000"), testPath("192.0.2.1:4001")
	ts.confirm(p, 10*ms)
	ts.add(ServerReflexive, "192.0.2.1:4001")
	for range 30 {
		ts.advance(100 * ms)
		if o, ok := ts.take(ping, p); ok {
			ts.writePong(o, 0)
		}
	}
	ts.wantState(silent, Waiting, "another path of its kind works")
	ts.wantWhy(silent, "no answer to", "then another path worked")
	ts.forget()
	ts.s.Probe(ts.now, p)
	ts.advance(time.Second)
	ts.wantState(p, Failed, "unanswered")
	ts.wantCount(silent, 5, 50, "the spare is tried again")
}

// With only a relay found the failed pairs are checked on at a slow cadence.
func TestUpgradeCadence(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	ts.s.AddRemote(ts.now, Candidate{Kind: Relayed, Addr: netip.MustParseAddrPort("192.0.2.9:50000"), Via: "r1"})
	direct, relay := testPath("192.0.2.1:4000"), testPath("192.0.2.9:50000")
	ts.confirm(relay, 30*ms)
	ts.s.SetActive(relay)
	minutes := func(n int) {
		for range n * 600 {
			ts.advance(100 * ms)
			for {
				o, ok := ts.take(ping, relay)
				if !ok {
					break
				}
				ts.writePong(o, flagConfirmed)
			}
		}
	}
	minutes(1)
	ts.wantState(direct, Failed, "no answer")
	ts.forget()
	minutes(2)
	at := ts.wantCount(direct, 3, 8, "5 s to 30 s apart")
	if gap := at[len(at)-1] - at[len(at)-2]; gap < 29*time.Second || gap > 31*time.Second {
		t.Errorf("%v apart in the end, want 30 s", gap)
	}
	s := ts.wantState(relay, Confirmed, "kept alive")
	if s.Via != "r1" || s.Kind != Relay {
		t.Errorf("status %+v", s)
	}
	ts.writePing(direct, 0)
	ts.writePong(ts.wantPing(direct, "triggered"), 0)
	ts.wantState(direct, Confirmed, "upgraded")
}

// A peer with forty candidates is checked within the bounds: 32 of them, the useful ones
// first, over every base that reaches them, 50 packets a round.
func TestFortyCandidates(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	for i := range 30 {
		ts.add(Host, fmt.Sprintf("10.%d.0.1:4000", i))
	}
	ts.add(ServerReflexive, "192.0.2.1:4000")
	ts.add(Host, "[2001:db8::1]:4000")
	for i := range 8 {
		ts.add(Host, fmt.Sprintf("172.17.%d.1:4000", i))
	}
	ts.s.AddBase(ts.now, 1, BaseInfo{Via: "r1", Families: IPv4})
	ts.poll()
	if n := len(ts.s.Paths()); n != 32+31 {
		t.Errorf("%d paths, want one per candidate from the socket and one per IPv4 candidate from the relay", n)
	}
	if len(ts.sent) != maxRound {
		t.Errorf("%d packets in the first round, want %d", len(ts.sent), maxRound)
	}
	for i, want := range []string{"192.0.2.1:4000", "[2001:db8::1]:4000", "10.0.0.1:4000"} {
		if got := ts.sent[i].path.Remote.String(); got != want {
			t.Errorf("packet %d goes to %s, want %s", i, got, want)
		}
	}
	ts.advance(20*ms - 1)
	if len(ts.sent) != maxRound {
		t.Errorf("%d more within the round", len(ts.sent)-maxRound)
	}
	ts.advance(1)
	ts.poll()
	ts.advance(relayHold) // the relay lets the peer come first
	reached := map[Path]bool{}
	for _, o := range ts.sent {
		reached[o.path] = true
	}
	if len(reached) != 32+31 {
		t.Errorf("%d pairs checked", len(reached))
	}
}

// A private address of another network costs few packets.
func TestRarePairs(t *testing.T) {
	ts := newTestSession(t, SessionConfig{LocalPrefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}})
	ts.add(Host, "192.168.7.9:4000", "10.1.2.3:4000")
	ts.advance(time.Second)
	if near, far := ts.status(testPath("192.168.7.9:4000")), ts.status(testPath("10.1.2.3:4000")); near.Kind != LAN || far.Kind != LAN {
		t.Errorf("kinds %v and %v", near.Kind, far.Kind)
	}
	ts.wantCount(testPath("192.168.7.9:4000"), 18, 22, "on our own link")
	ts.wantCount(testPath("10.1.2.3:4000"), 3, 5, "elsewhere")
}

// What a hostile offer can make us send to a third host is bounded.
func TestThirdHostIsNotFlooded(t *testing.T) {
	ts := newTestSession(t, SessionConfig{})
	for i := range 1000 {
		ts.add(ServerReflexive, fmt.Sprintf("192.0.2.66:%d", 2000+i))
	}
	ts.advance(time.Minute)
	if n := len(ts.sent); n > maxPerIP*40 {
		t.Errorf("%d packets to one host", n)
	}
	for i := range 1000 {
		ts.add(ServerReflexive, fmt.Sprintf("192.0.%d.%d:4000", i/250, 1+i%250))
	}
	if n := len(ts.s.Paths()); n > MaxCandidates {
		t.Errorf("%d paths", n)
	}
}

func TestFamilies(t *testing.T) {
	ts := newTestSession(t, SessionConfig{Families: IPv4}, "192.0.2.1:4000", "[2001:db8::1]:4000")
	if n := len(ts.s.Paths()); n != 1 {
		t.Errorf("%d paths from an IPv4 socket to one address of each family", n)
	}
	ts.s.AddBase(ts.now, 1, BaseInfo{Via: "r6", Families: IPv6})
	s := ts.status(Path{Base: 1, Remote: netip.MustParseAddrPort("[2001:db8::1]:4000")})
	if s.Kind != Relay || s.Via != "r6" {
		t.Errorf("status %+v", s)
	}
	ts.s.RemoveBase(ts.now, 1, errors.New("allocation expired"))
	ts.wantWhy(s.Path, "allocation expired")
	ts.forget()
	ts.s.Probe(ts.now, s.Path)
	ts.advance(time.Minute)
	ts.wantCount(s.Path, 0, 0, "nothing can be sent from a base that is gone")
	ts.s.AddBase(ts.now, 1, BaseInfo{Via: "r6", Families: IPv6})
	ts.advance(relayHold - 1)
	ts.wantCount(s.Path, 0, 0, "the peer, who is told of the relay, goes first")
	ts.advance(1)
	ts.wantPing(s.Path, "the base is back")
}

// A user who wants relays only: the socket neither checks nor answers.
func TestNoFamily(t *testing.T) {
	ts := newTestSession(t, SessionConfig{Families: NoFamily}, "192.0.2.1:4000")
	ts.receive(testPath("192.0.2.1:4000"), ts.seal(check{typ: ping, txid: 1}), ErrNoBase, "the socket is not to be used")
	ts.advance(time.Second)
	ts.wantIdle("nothing leaves the socket")
	ts.s.AddBase(ts.now, 1, BaseInfo{Via: "r1"})
	ts.advance(relayHold)
	ts.wantPing(Path{Base: 1, Remote: netip.MustParseAddrPort("192.0.2.1:4000")}, "the relay is")
}

func TestSendFailed(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "[2001:db8::1]:4000")
	p := testPath("[2001:db8::1]:4000")
	for range 3 {
		ts.wantPing(p, "a round")
		ts.s.SendFailed(ts.now, p, errors.New("network is unreachable"))
		ts.advance(20 * ms)
	}
	ts.wantState(p, Failed, "three in a row")
	ts.wantWhy(p, "sending to [2001:db8::1]:4000: network is unreachable")
}

func TestRestart(t *testing.T) {
	ts := newTestSession(t, SessionConfig{}, "192.0.2.1:4000")
	p := testPath("192.0.2.1:4000")
	ts.advance(11 * time.Second)
	ts.wantState(p, Failed, "no answer")
	ts.forget()
	ts.s.Restart(ts.now, ts.now.Add(50*ms))
	ts.advance(49 * ms)
	ts.wantIdle("the new start")
	ts.advance(1 * ms)
	ts.wantPing(p, "begun anew")
}

func TestIdlePollSaysSo(t *testing.T) {
	ts := newTestSession(t, SessionConfig{Keepalive: -1}, "192.0.2.1:4000")
	ts.confirm(testPath("192.0.2.1:4000"), 10*ms)
	if out, next := ts.s.Poll(ts.now); out != nil || !next.IsZero() {
		t.Errorf("without keepalives: %d packets, next %v", len(out), next)
	}
	if n := testing.AllocsPerRun(100, func() { ts.s.Poll(ts.now) }); n != 0 {
		t.Errorf("an idle Poll allocates %v times", n)
	}
}
