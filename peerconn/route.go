package peerconn

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
)

// route is what lies behind one virtual address: all the ways to one peer's
// host, and the choice among them. QUIC writes to the virtual address and never
// learns that the way changed under it.
//
// A route begins in signalling: what QUIC writes is collected for the offer or
// the answer, and then goes through the node as far as the node's bounds allow;
// what exceeds them waits. As soon as an authenticated check has arrived over a
// real path, data goes there. One goroutine, run, drives the checks; the mutex
// guards the session and the choice, because checks arrive on QUIC's read loop.
type route struct {
	sock    *socket
	log     *slog.Logger
	peer    sallyport.PeerID
	virtual *net.UDPAddr
	calling bool // the call that made the route is ours
	noRelay bool // PolicyDirectOnly
	started time.Time
	ctx     context.Context // the route's lifetime, which others wait for
	linked  chan struct{}   // closed when link is set

	callOver chan struct{} // closed when the call that made the route has ended
	onEvent  func(Event)   // called with the mutex held; must not block

	target  atomic.Pointer[target] // where data goes; nil while signalling
	hedge   atomic.Pointer[target] // where data goes too, while target is in doubt
	silence silence
	hush    hush
	tail    tail
	wakeup  chan struct{}
	driving sync.Mutex // held by drive, taken before mu

	mu      sync.Mutex // guards what follows
	session *holepunch.Session
	seen    uint64 // the session's version that choose saw last
	bases   map[holepunch.Base]base
	active  Path
	since   time.Time // when active was chosen
	doubted time.Time // when hedge was set
	narrow  narrow
	conn    *quic.Conn       // of an incoming link, from the start of its handshake
	link    *Link            // the connection that uses the route, once there is one
	offer   *holepunch.Offer // that made the route, or repaired it last
	first   chan struct{}    // closed when the first real path is chosen
	found   chan struct{}    // closed while a real path is chosen
	lost    chan struct{}    // gets a token when no path is usable any more

	relayUse *relayUse // the route's part in the host's relays
}

// base is a local sending point other than the socket itself: an allocation at a
// relay.
type base interface {
	WriteTo(b []byte, peer netip.AddrPort) (int, error)
}

// runWriter is a base that can write a run of equal datagrams at once.
type runWriter interface {
	writeRun(b []byte, segment int, peer netip.AddrPort) error
}

// target is a chosen path, ready to be written to.
type target struct {
	path   holepunch.Path
	relay  base // nil: the socket itself
	remote *net.UDPAddr
}

func newRoute(ctx context.Context, sock *socket, log *slog.Logger, peer sallyport.PeerID, cfg holepunch.SessionConfig) *route {
	return &route{
		sock:    sock,
		log:     log,
		peer:    peer,
		virtual: newVirtual(),
		calling: cfg.Caller,
		started: time.Now(),
		ctx:     ctx,
		linked:  make(chan struct{}),

		callOver: make(chan struct{}),
		onEvent:  func(Event) {},
		wakeup:   make(chan struct{}, 1),
		session:  holepunch.NewSession(cfg),
		bases:    make(map[holepunch.Base]base),
		narrow:   narrow{came: make(chan struct{})},
		first:    make(chan struct{}),
		found:    make(chan struct{}),
		lost:     make(chan struct{}, 1),
	}
}

// write sends b, which holds datagrams of segment bytes (0: just one). An error
// that QUIC cannot do anything about is swallowed: QUIC treats the datagram as
// lost and the path is looked into.
func (r *route) write(b []byte, segment int) error {
	t := r.target.Load()
	if t == nil {
		r.writeSignal(b, segment)
		return nil
	}
	if r.silence.sent(time.Now()) {
		r.wake()
	}
	r.tail.keep(b, segment)
	err := r.writeTarget(t, b, segment)
	if h := r.hedge.Load(); h != nil {
		r.writeTarget(h, b, segment) // QUIC drops what arrives twice
	}
	if err == nil || offloadFailed(err) {
		return err
	}
	r.suspect(t.path, time.Now())
	return nil
}

func (r *route) writeTarget(t *target, b []byte, segment int) error {
	if t.relay != nil {
		if w, ok := t.relay.(runWriter); ok && segment > 0 {
			return w.writeRun(b, segment, t.path.Remote)
		}
		return eachDatagram(b, segment, func(d []byte) error {
			_, err := t.relay.WriteTo(d, t.path.Remote)
			return err
		})
	}
	if segment > 0 {
		_, _, err := r.sock.udp.WriteMsgUDP(b, segmentControl(segment), t.remote)
		return err
	}
	_, err := r.sock.pc.WriteTo(b, t.remote)
	return err
}

// writeSignal sends by way of the node, while there is no better one.
func (r *route) writeSignal(b []byte, segment int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	eachDatagram(b, segment, func(d []byte) error {
		r.narrow.write(d)
		return nil
	})
	if t := r.target.Load(); t != nil { // chosen in between
		r.flushHeld(t)
	}
}

func (r *route) flushHeld(t *target) {
	for _, d := range r.narrow.takeAll() {
		if err := r.writeTarget(t, d, 0); err != nil {
			return
		}
	}
}

func eachDatagram(b []byte, segment int, f func([]byte) error) error {
	if segment <= 0 {
		return f(b)
	}
	for len(b) > 0 {
		n := min(segment, len(b))
		if err := f(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// received notes that the peer was heard over p; called for every datagram.
func (r *route) received(p holepunch.Path) {
	t := r.target.Load()
	r.silence.heard(t == nil || t.path == p)
}

// check takes an inbound check of this route's session, and answers it at once.
func (r *route) check(from holepunch.Path, b []byte) {
	now := time.Now()
	r.mu.Lock()
	err := r.session.Receive(now, from, b)
	r.mu.Unlock()
	if err != nil {
		r.log.Debug("check dropped", "peer", r.peer.Short(), "err", err)
		return
	}
	if from.Base == 0 {
		r.sock.strangers.proved(from.Remote.Addr(), now)
	}
	r.received(from)
	r.drive(now)
	r.wake() // the next deadline may have moved
}

// addRemote gives the session candidates of the peer.
func (r *route) addRemote(cands []holepunch.Candidate) {
	r.mu.Lock()
	r.session.AddRemote(time.Now(), cands...)
	r.mu.Unlock()
	r.wake()
}

// addBase adds a relay allocation as a sending point.
func (r *route) addBase(n holepunch.Base, b base, info holepunch.BaseInfo) {
	r.mu.Lock()
	r.bases[n] = b
	r.session.AddBase(time.Now(), n, info)
	r.mu.Unlock()
	r.wake()
}

// suspect has the session look into a path at once.
func (r *route) suspect(p holepunch.Path, now time.Time) {
	r.mu.Lock()
	r.session.Probe(now, p)
	r.mu.Unlock()
	r.wake()
}

func (r *route) wake() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// run drives checks and the choice of path until the route's context ends.
func (r *route) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	defer r.sock.disown(r)
	for {
		next := r.step(time.Now())
		timer.Reset(next)
		select {
		case <-r.ctx.Done():
			return
		case <-r.wakeup:
		case <-timer.C:
		}
	}
}

const idleStep = time.Hour

// step does what is due and returns how long nothing else will be.
func (r *route) step(now time.Time) time.Duration {
	r.mu.Lock()
	if r.silence.suspicious(now, r.active.RTT) {
		r.doubt(now)
	}
	ended, look := r.hush.look(now)
	if t := r.target.Load(); ended && t != nil {
		r.session.Probe(now, t.path)
	}
	r.mu.Unlock()
	wait := idleStep
	if next := r.drive(now); !next.IsZero() {
		wait = max(0, next.Sub(now))
	}
	return min(wait, look, r.silence.next())
}

// drive sends the checks that are due and then chooses the path, in this order:
// the peer takes data from an address it was not told of only after a check from
// there. It returns when it must be called again, zero for never.
func (r *route) drive(now time.Time) (next time.Time) {
	r.driving.Lock()
	defer r.driving.Unlock()
	r.mu.Lock()
	out, next := r.session.Poll(now)
	bases := make([]base, len(out))
	for i, o := range out {
		bases[i] = r.bases[o.Path.Base]
	}
	r.mu.Unlock()
	for i, o := range out {
		r.sendCheck(o, bases[i])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.choose(now)
	r.reviewHedge(now)
	return next
}

func (r *route) sendCheck(o holepunch.Outgoing, relay base) {
	var err error
	switch {
	case o.Path.Base == 0 && r.sock.strangers.allow(o.Path.Remote.Addr(), time.Now()):
		err = r.sock.sendTTL(o.Bytes, o.Path.Remote, o.TTL)
	case relay != nil:
		_, err = relay.WriteTo(o.Bytes, o.Path.Remote)
	}
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.session.SendFailed(time.Now(), o.Path, err)
	}
}

// removeBase drops a relay allocation that is gone.
func (r *route) removeBase(n holepunch.Base, why error) {
	r.mu.Lock()
	delete(r.bases, n)
	r.session.RemoveBase(time.Now(), n, why)
	r.mu.Unlock()
	r.wake()
}

// path returns the path in use.
func (r *route) path() Path {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current()
}

// current is path for those who hold the mutex.
func (r *route) current() Path {
	if r.active.Kind != PathNone {
		return r.active
	}
	return r.narrow.path
}

// reports returns all paths tried so far.
func (r *route) reports() []PathReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []PathReport
	for _, s := range r.session.Paths() {
		out = append(out, PathReport{Path: publicPath(s), State: s.State, Why: s.FailWhy})
	}
	return out
}

// tag returns what inbound checks of this route carry.
func (r *route) tag() holepunch.Tag {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.session.Tag()
}
