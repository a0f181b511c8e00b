package holepunch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Hooks connect a Puncher to what shares its socket. Both run on the goroutine of
// Run and must not block.
type Hooks struct {
	// Changed is told the paths when one changed, and ends Run by returning true. Nil: Run ends as soon as
	// one path is confirmed by both sides, or by us alone for two seconds.
	Changed func([]PathStatus) (done bool)
	// Other gets the packets that are not checks of this session; b is valid during the
	// call. Nil drops them.
	Other func(b []byte, from netip.AddrPort)
}

// A Puncher runs a Session over a packet socket: all that a program without relays
// and QUIC needs. Its methods may be called from any goroutine; the Session is the
// Puncher's alone from NewPuncher on.
type Puncher struct {
	conn  net.PacketConn
	hooks Hooks

	mu      sync.Mutex // guards what follows
	session *Session
	kicked  bool // Run must look before it waits
	version uint64
}

// NewPuncher prepares Run. The conn is not closed.
func NewPuncher(conn net.PacketConn, s *Session, hooks Hooks) *Puncher {
	return &Puncher{conn: conn, session: s, hooks: hooks}
}

// AddRemote adds candidates that arrived late.
func (p *Puncher) AddRemote(cands ...Candidate) {
	p.mu.Lock()
	p.session.AddRemote(time.Now(), cands...)
	p.mu.Unlock()
	p.kick()
}

// Run punches until Hooks.Changed is content, and returns the best path. It fails with a *PunchError
// that holds every path's reason when ctx ends, when every path failed, or when the socket breaks. While it runs
// it is the socket's only reader; afterwards the socket has no read deadline. Run starts no goroutine and
// may be called again, to keep the paths alive or to go on after AddRemote.
func (p *Puncher) Run(ctx context.Context) (PathStatus, error) {
	stop := context.AfterFunc(ctx, p.kick)
	defer p.conn.SetReadDeadline(time.Time{})
	defer stop()
	buf := make([]byte, 64<<10)
	failures := 0
	for {
		next, paths, done := p.turn()
		switch {
		case done:
			return best(paths), nil
		case ctx.Err() != nil:
			return PathStatus{}, newPunchError(context.Cause(ctx), paths)
		case next.IsZero() && hopeless(paths):
			return PathStatus{}, newPunchError(errors.New("every path failed"), paths)
		}
		p.arm(next)
		n, from, err := p.conn.ReadFrom(buf)
		switch {
		case err == nil:
			failures = 0
			p.inbound(buf[:n], addrPort(from))
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, net.ErrClosed) || failures >= 100:
			return PathStatus{}, newPunchError(fmt.Errorf("reading the socket: %w", err), paths)
		default: // Windows reports a peer's closed port here
			failures++
		}
	}
}

// turn sends what is due and tells the hook what changed.
func (p *Puncher) turn() (next time.Time, paths []PathStatus, done bool) {
	now := time.Now()
	p.mu.Lock()
	p.kicked = false
	for {
		var out []Outgoing
		if out, next = p.session.Poll(now); len(out) == 0 {
			break
		}
		p.send(now, out)
	}
	paths = p.session.Paths()
	changed := p.version != p.session.Version()
	p.version = p.session.Version()
	p.mu.Unlock()
	if p.hooks.Changed != nil {
		return next, paths, changed && p.hooks.Changed(paths)
	}
	return next, paths, slices.ContainsFunc(paths, func(s PathStatus) bool { return s.bothConfirmed(now) })
}

func (p *Puncher) send(now time.Time, out []Outgoing) {
	for _, o := range out {
		if _, err := p.conn.WriteTo(o.Bytes, net.UDPAddrFromAddrPort(o.Path.Remote)); err != nil {
			p.session.SendFailed(now, o.Path, err)
		}
	}
}

// inbound takes one packet. What is wrong with it is nobody's business: anybody can
// send to an open port.
func (p *Puncher) inbound(b []byte, from netip.AddrPort) {
	p.mu.Lock()
	tag, ok := CheckTag(b)
	ours := ok && tag == p.session.Tag()
	if ours {
		_ = p.session.Receive(time.Now(), Path{Remote: from}, b)
	}
	p.mu.Unlock()
	if !ours && p.hooks.Other != nil {
		p.hooks.Other(b, from)
	}
}

// arm sets the time at which ReadFrom returns, unless a kick came since turn.
func (p *Puncher) arm(next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kicked {
		next = time.Unix(1, 0)
	}
	p.conn.SetReadDeadline(next)
}

// kick makes Run look again.
func (p *Puncher) kick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kicked = true
	p.conn.SetReadDeadline(time.Unix(1, 0))
}

// bothConfirmed: the peer said so, or had two seconds to.
func (s PathStatus) bothConfirmed(now time.Time) bool {
	return s.State == Confirmed && (s.PeerConfirmed || now.Sub(s.Confirmed) >= 2*time.Second)
}

// hopeless reports whether nothing is left to try.
func hopeless(paths []PathStatus) bool {
	return len(paths) > 0 && !slices.ContainsFunc(paths, func(s PathStatus) bool { return s.State != Failed })
}

// best prefers what works, then the kind, then the round trip.
func best(paths []PathStatus) PathStatus {
	if len(paths) == 0 {
		return PathStatus{}
	}
	return slices.MinFunc(paths, func(a, b PathStatus) int {
		if c := boolOrder(a.State == Confirmed, b.State == Confirmed); c != 0 {
			return c
		}
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return int(a.RTT - b.RTT)
	})
}

// addrPort converts at the edge of package net.
func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return unmap(u.AddrPort())
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return unmap(ap)
}
