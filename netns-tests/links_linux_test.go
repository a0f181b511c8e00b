package netnstests

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Two peers behind Linux routers without an input firewall: the packet that
// knocks first takes the port it knocks at, so both sides must start together.
func TestLinuxStealing(t *testing.T) {
	m := newMeeting(t, "")
	a, b := m.lab.site("a", linuxKind()), m.lab.site("b", linuxKind())
	for try := range 5 {
		t.Run(fmt.Sprintf("a_calls_b/%d", try+1), func(t *testing.T) { m.directAtOnce(t, a, b) })
		t.Run(fmt.Sprintf("b_calls_a/%d", try+1), func(t *testing.T) { m.directAtOnce(t, b, a) })
	}
}

// TestLinuxStealingAgain calls one listener again and again: nothing of one call,
// its relay least of all, may spoil the listener's NAT for the next.
func TestLinuxStealingAgain(t *testing.T) {
	m := newMeeting(t, "")
	b := m.lab.site("b", linuxKind())
	for _, a := range []*place{m.lab.site("a", linuxKind()), m.lab.site("c", kindNamed("eim-apdf"))} {
		t.Run(a.kind.name, func(t *testing.T) { m.directAgain(t, a, b, 5) })
	}
}

func (m *meeting) directAgain(t *testing.T, left, right *place, calls int) {
	const tries, stall = 5, 5 * time.Millisecond
	for range tries {
		callee, peer := m.listen(t, right)
		lateness := watchLateness()
		var r result
		for call := 0; call < calls && r.code == exitDone; call++ {
			r = m.ping(t, left, peer, "--until-direct", "--timeout", "5s", "-i", "100ms")
			t.Log(times(r))
		}
		late := lateness()
		if r.code == exitDone || late < stall {
			r.wantDirect(callee)
			return
		}
		t.Logf("not direct, and void: this machine let a thread wait %v for its turn", late)
		callee.stop()
	}
	t.Skipf("SKIPPED: this machine is too busy to judge what has to happen within 40 ms, in %d tries", tries)
}

// directAtOnce wants a direct path at the first try. Half a round trip is all the
// time there is, so a failure counts only if the machine did not stall meanwhile.
func (m *meeting) directAtOnce(t *testing.T, left, right *place) {
	const tries, stall = 5, 5 * time.Millisecond
	for range tries {
		callee, peer := m.listen(t, right)
		lateness := watchLateness()
		r := m.ping(t, left, peer, "--until-direct", "--timeout", "5s", "-i", "100ms")
		late := lateness()
		if r.code == exitDone || late < stall {
			r.wantDirect(callee)
			t.Log(times(r))
			return
		}
		t.Logf("not direct, and void: this machine let a thread wait %v for its turn", late)
		callee.stop()
	}
	t.Skipf("SKIPPED: this machine is too busy to judge what has to happen within 40 ms, in %d tries", tries)
}

// watchLateness measures until its result is called how late a sleeping thread is woken at most.
func watchLateness() func() time.Duration {
	stop, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for {
			select {
			case <-stop:
				worst <- most
				return
			default:
			}
			due := time.Now().Add(time.Millisecond)
			sleepUntil(due)
			most = max(most, time.Since(due))
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-worst
	}
}

// A node without a relay of its own, and a peer with a public address that lends
// itself: two peers that cannot be direct meet there.
func TestVolunteerRelay(t *testing.T) {
	m := newMeeting(t, "rendezvous,stun")
	volunteer := m.lab.server("volunteer", 1)
	at := volunteer.address.String() + ":" + nodePort
	relay := volunteer.sally(t, m.with(t, "relay", "--listen", at)...)
	relay.want("ready")
	apdm := kindNamed("apdm")
	listener, peer := m.listen(t, m.lab.site("right", apdm))
	// The node itself carries the first bytes of a call, no more; so many pings need a relay.
	r := m.ping(t, m.lab.site("left", apdm), peer, "-i", "50ms", "-c", "100", "--timeout", "20s")
	if r.code != exitDone {
		r.fatalf("exit code %d, want a link over the volunteer and 0\n%s\n%s", r.code, listener.transcript(), relay.transcript())
	}
	pongs := r.all("pong")
	last := pongs[len(pongs)-1]
	if last.kind() != "relay" || strings.Contains(last.Path.Via, m.node.public[0].String()) {
		r.fatalf("the last pong did not come by the volunteer at %s: %s\n%s\n%s", at, last.line, listener.transcript(), relay.transcript())
	}
	t.Logf("by the volunteer: %s; %s", last.line, times(r))
}

// An uplink that loses one packet in twenty and delays each by up to 10 ms more.
func TestLossyUplinks(t *testing.T) {
	m := newMeeting(t, "")
	m.lab.uplink.loss, m.lab.uplink.jitter = 0.05, 10*time.Millisecond
	cone := kindNamed("eim-apdf")
	t.Log(times(m.reachesDirectly(t, m.lab.site("left", cone), m.lab.site("right", cone))))
}

// Two hosts of one home see each other on the LAN.
func TestSameHome(t *testing.T) {
	m := newMeeting(t, "")
	a, b := m.lab.household("home")
	r := m.reachesDirectly(t, a, b)
	pongs := r.all("pong")
	if len(pongs) == 0 {
		r.fatalf("no pong")
	}
	if last := pongs[len(pongs)-1]; last.kind() != "lan" {
		r.fatalf("the last pong came by %s, want lan: %s", last.kind(), last.line)
	}
	t.Log(times(r))
}

// Twenty megabytes through stdio, whole and in order, both ways, over both kinds of path.
func TestTransfer(t *testing.T) {
	m := newMeeting(t, "")
	cone, symmetric := kindNamed("eim-apdf"), kindNamed("apdm")
	for _, pair := range []struct {
		kind        string
		left, right *place
	}{
		{"direct", m.lab.site("left-cone", cone), m.lab.site("right-cone", cone)},
		{"relay", m.lab.site("left-apdm", symmetric), m.lab.site("right-apdm", symmetric)},
	} {
		t.Run(pair.kind+"/up", func(t *testing.T) { m.transfer(t, pair.left, pair.right, pair.kind, true) })
		t.Run(pair.kind+"/down", func(t *testing.T) { m.transfer(t, pair.left, pair.right, pair.kind, false) })
	}
}

// transfer sends 20 MB from the dialer to the listener, or back, and compares digests.
func (m *meeting) transfer(t *testing.T, left, right *place, kind string, up bool) {
	listener := right.pipe(t, m.with(t, "listen", "--allow", "any")...)
	peer := listener.want("ready").Peer
	dialer := left.pipe(t, m.with(t, "dial", peer)...)
	from, to := dialer, listener
	if !up {
		from, to = listener, dialer
	}
	const size = 20 << 20
	sent := make(chan [sha256.Size]byte, 1)
	start := time.Now()
	go func() {
		digest := sha256.New()
		source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
		_, _ = io.Copy(from.stdin, io.TeeReader(source, digest)) // a short copy shows in the count
		_ = from.stdin.Close()
		sent <- [sha256.Size]byte(digest.Sum(nil))
	}()
	digest := sha256.New()
	watchdog := time.AfterFunc(longEnough, func() { _ = from.cmd.Process.Kill(); _ = to.cmd.Process.Kill() })
	defer watchdog.Stop()
	n, err := io.Copy(digest, io.LimitReader(to.stdout, size))
	took := time.Since(start)
	if err != nil || n != size {
		to.fatalf("%d of %d bytes arrived in %v: %v\n%s", n, size, took, err, from.transcript())
	}
	if got := [sha256.Size]byte(digest.Sum(nil)); got != <-sent {
		to.fatalf("what arrived is not what was sent\n%s", from.transcript())
	}
	wantPaths(t, dialer, kind)
	t.Logf("%d bytes in %.1f s: %.0f Mbit/s", size, took.Seconds(), size*8/took.Seconds()/1e6)
}

// wantPaths wants the last path a dialer reported to be of that kind, and none to
// be direct where none can be.
func wantPaths(t *testing.T, dialer *command, kind string) {
	t.Helper()
	var last *path
	for len(dialer.events) > 0 {
		e := <-dialer.events
		if e.To != nil {
			last = e.To
		} else if e.Path != nil {
			last = e.Path
		}
		if last != nil && kind == "relay" && last.Kind != "relay" {
			dialer.fatalf("a path of kind %s where none can exist: %s", last.Kind, e.line)
		}
	}
	if last == nil || last.Kind != kind {
		dialer.fatalf("the transfer ended on %+v, want a path of kind %s", last, kind)
	}
}

// The times are printed, never asserted: 80 ms round trip between the peers and
// 40 ms from each to the node.
func TestPingTimes(t *testing.T) {
	m := newMeeting(t, "")
	for _, pair := range []struct{ kind, name string }{{"direct", "eim-apdf"}, {"relay", "apdm"}} {
		left := m.lab.site("left-"+pair.name, kindNamed(pair.name))
		right := m.lab.site("right-"+pair.name, kindNamed(pair.name))
		t.Run(pair.name+"_x_"+pair.name, func(t *testing.T) {
			for range 5 {
				if pair.kind == "direct" {
					t.Log(times(m.reachesDirectly(t, left, right)))
				} else {
					t.Log(times(m.reachesByRelay(t, left, right)))
				}
			}
		})
	}
}
