package netnstests

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// An expectation is what a cell of the matrix must reach, and why.
type expectation struct {
	kind string // "direct", "relay" or "fail"
	why  string // the physical reason
}

// expected says what the physics of two NATs allow, whichever side calls.
func expected(caller, callee natKind) expectation {
	switch {
	case caller.mapping == nothingPasses:
		return expectation{"fail", "the caller's network drops all UDP"}
	case callee.mapping == nothingPasses:
		return expectation{"fail", "the callee's network drops all UDP"}
	case caller.mapping != byAddressPort && callee.mapping != byAddressPort:
		return expectation{"direct", "what the node sees of each side is what the other side sees"}
	case caller.mapping == byAddressPort && callee.mapping == byAddressPort:
		return expectation{"relay", "each side would have to guess the other's random port"}
	case caller.filtering == byAddressPort && callee.filtering == byAddressPort:
		return expectation{"relay", "one side's port is random and the other admits only a port it has sent to"}
	}
	return expectation{"direct", "the random port's packet is admitted, and its answer goes back to it"}
}

// A meeting is a node and what a pair of commands needs to find it.
type meeting struct {
	lab  *lab
	node *place
	data string // the node's folder
	url  string
	serv *command
}

// nodePort is the node's on both of its addresses.
const nodePort = "3478"

// newMeeting makes a lab with a node of the given roles; none means all.
func newMeeting(t *testing.T, roles string) *meeting {
	t.Helper()
	sallyBinary(t)
	l := newLab(t)
	m := &meeting{lab: l, node: l.server("node", 2), data: t.TempDir()}
	m.serv, m.url = startNode(t, m.node, m.data, roles)
	return m
}

// startNode runs `sally serve` on both addresses of a place and returns its URL.
func startNode(t *testing.T, at *place, data, roles string) (*command, string) {
	t.Helper()
	args := []string{"serve", "--json", "--data", data}
	for _, a := range at.public {
		args = append(args, "--listen", a.String()+":"+nodePort)
	}
	if roles != "" {
		args = append(args, "--role", roles)
	}
	serv := at.sally(t, args...)
	url := serv.want("ready").Node
	if !strings.HasPrefix(url, "sally://") {
		serv.fatalf("the node's URL is %q", url)
	}
	return serv, url
}

// with adds what every command of a peer gets: the node and a fresh identity.
func (m *meeting) with(t testing.TB, command string, args ...string) []string {
	identity := filepath.Join(t.TempDir(), "identity.key")
	return append([]string{command, "--node", m.url, "--identity", identity, "--json"}, args...)
}

// listen runs `sally listen` at a place until the test ends and returns its peer ID.
func (m *meeting) listen(t testing.TB, at *place) (*command, string) {
	t.Helper()
	return m.listenFor(t, at, "any")
}

// listenFor is listen for the callers of that name only.
func (m *meeting) listenFor(t testing.TB, at *place, callers string) (*command, string) {
	t.Helper()
	c := at.sally(t, m.with(t, "listen", "--allow", callers, "--echo")...)
	ready := c.want("ready")
	if ready.Peer == "" {
		c.fatalf("ready names no peer: %s", ready.line)
	}
	return c, ready.Peer
}

// ping runs `sally ping` at a place to its end.
func (m *meeting) ping(t testing.TB, at *place, peer string, args ...string) result {
	t.Helper()
	return at.sally(t, m.with(t, "ping", append(args, peer)...)...).result()
}

// untilDirect asks for a direct path and gives up after 20 s.
var untilDirect = []string{"--until-direct", "--timeout", "20s", "-i", "100ms", "-c", "150"}

func TestMatrix(t *testing.T) {
	m := newMeeting(t, "")
	var lefts, rights []*place
	for _, k := range kinds() {
		lefts = append(lefts, m.lab.site("left-"+k.name, k))
		rights = append(rights, m.lab.site("right-"+k.name, k))
	}
	for _, left := range lefts {
		for _, right := range rights {
			t.Run(fmt.Sprintf("%s_x_%s", left.kind.name, right.kind.name), func(t *testing.T) {
				t.Parallel()
				m.cell(t, left, right)
			})
		}
	}
}

// cell lets left call right and compares the path with the physics.
func (m *meeting) cell(t *testing.T, left, right *place) {
	e := expected(left.kind, right.kind)
	var r result
	switch e.kind {
	case "direct":
		r = m.reachesDirectly(t, left, right)
	case "relay":
		r = m.reachesByRelay(t, left, right)
	default:
		m.failsToReach(t, left, right)
		t.Logf("fails as it must: %s", e.why)
		return
	}
	t.Logf("%s: %s; %s", e.kind, e.why, times(r))
}

func (m *meeting) reachesDirectly(t *testing.T, left, right *place) result {
	t.Helper()
	callee, peer := m.listen(t, right)
	r := m.ping(t, left, peer, untilDirect...)
	r.wantDirect(callee)
	return r
}

// wantDirect wants a ping to have ended as --until-direct should.
func (r result) wantDirect(callee *command) {
	r.t.Helper()
	if r.code != exitDone {
		r.fatalf("exit code %d, want a direct path and 0\n%s", r.code, callee.transcript())
	}
	if !r.done().Direct {
		r.fatalf("done does not say direct\n%s", callee.transcript())
	}
}

func (m *meeting) reachesByRelay(t *testing.T, left, right *place) result {
	t.Helper()
	callee, peer := m.listen(t, right)
	r := m.ping(t, left, peer, "-c", "5", "-i", "200ms", "--timeout", "20s")
	if r.code != exitDone {
		r.fatalf("exit code %d, want pongs over a relay and 0\n%s", r.code, callee.transcript())
	}
	relayed := 0
	for _, pong := range r.all("pong") {
		if kind := pong.kind(); kind == "direct" || kind == "lan" {
			r.fatalf("a pong came over a path of kind %s where none can exist: %s", kind, pong.line)
		} else if kind == "relay" {
			relayed++
		}
	}
	if relayed == 0 {
		r.fatalf("no pong came over a relay\n%s", callee.transcript())
	}
	return r
}

// failsToReach expects words and a code: 1 where the caller gets nowhere, 4 where
// the caller reaches the node and the callee never could.
func (m *meeting) failsToReach(t *testing.T, left, right *place) {
	t.Helper()
	code := exitFailed
	if left.kind.mapping != nothingPasses {
		code = exitOffline
	}
	identity := filepath.Join(t.TempDir(), "identity.key")
	peer := right.sally(t, "id", "--identity", identity, "--json").want("id").Peer
	right.sally(t, "listen", "--allow", "any", "--echo", "--json", "--node", m.url, "--identity", identity)
	r := m.ping(t, left, peer, "-c", "3", "--timeout", "5s")
	if r.code != code {
		r.fatalf("exit code %d, want %d", r.code, code)
	}
	if len(r.complaints()) == 0 {
		r.fatalf("nothing on stderr says what was tried and why it failed")
	}
	if len(r.all("pong")) > 0 {
		r.fatalf("a pong came through where nothing can")
	}
}

// times says how long a ping took to its first link, pong and direct path.
func times(r result) string {
	var b strings.Builder
	var asked float64
	for _, e := range r.all("ready") {
		asked = *e.Millis
	}
	for _, e := range r.all("connected") {
		fmt.Fprintf(&b, "linked %.0f ms by %s", e.ElapsedMillis, e.kind())
	}
	if pongs := r.all("pong"); len(pongs) > 0 {
		fmt.Fprintf(&b, ", first pong %.0f ms by %s", *pongs[0].Millis-asked, pongs[0].kind())
	}
	if done := r.all("done"); len(done) > 0 && done[0].DirectAfter != nil {
		fmt.Fprintf(&b, ", direct %.0f ms", *done[0].DirectAfter)
	}
	return b.String()
}
