package peerconn

import (
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
)

const (
	// A path of the same kind must be this much faster to be worth a change ...
	betterBy    = 5 * time.Millisecond
	betterRatio = 0.8
	// ... and the one in use must have had this long to prove itself.
	settleTime = 10 * time.Second
)

// choose picks the path for outgoing data after the session changed. The caller
// holds the mutex.
func (r *route) choose(now time.Time) {
	if v := r.session.Version(); v == r.seen {
		return
	} else {
		r.seen = v
	}
	paths := r.paths()
	for _, s := range paths {
		if usable(s) {
			r.sock.own(s.Path, r)
		}
	}
	best, found := r.best(paths, now)
	t := r.target.Load()
	switch {
	case !found:
		if t != nil { // keep it: it may come back
			r.losePath()
		}
	case t != nil && t.path == best.Path:
		r.active.RTT = best.RTT
	default:
		r.use(best, t, paths, now)
	}
}

// paths returns those that the policy lets data take. A peer may bring a relay of
// its own, whatever we told it. The caller holds the mutex.
func (r *route) paths() []holepunch.PathStatus {
	paths := r.session.Paths()
	if r.noRelay {
		paths = slices.DeleteFunc(paths, func(s holepunch.PathStatus) bool { return s.Kind == holepunch.Relay })
	}
	return paths
}

// usable reports whether data may go over s: "a path may carry data once an
// authenticated check arrived over it".
func usable(s holepunch.PathStatus) bool {
	return s.State == holepunch.Heard || s.State == holepunch.Confirmed
}

// best returns the path that data should take now, which is the one in use
// unless another is of a better kind, clearly faster, or the only one. While the
// one in use is confirmed, only confirmed ones can replace it.
func (r *route) best(paths []holepunch.PathStatus, now time.Time) (best holepunch.PathStatus, found bool) {
	inUse := r.inUse(paths)
	for _, s := range paths {
		if !usable(s) || inUse.State == holepunch.Confirmed && s.State != holepunch.Confirmed {
			continue
		}
		if !found || better(s, best) {
			best, found = s, true
		}
	}
	if found && usable(inUse) && inUse.Kind == best.Kind && inUse.State == best.State && !r.clearlyBetter(best, inUse, now) {
		return inUse, true
	}
	return best, found
}

// inUse returns the status of the path that data takes now, zero if none.
func (r *route) inUse(paths []holepunch.PathStatus) holepunch.PathStatus {
	if t := r.target.Load(); t != nil {
		for _, s := range paths {
			if s.Path == t.path {
				return s
			}
		}
	}
	return holepunch.PathStatus{}
}

// better orders usable paths: by kind, then confirmed ones first, then by round
// trip.
func better(a, b holepunch.PathStatus) bool {
	if ka, kb := kindOf(a.Kind), kindOf(b.Kind); ka != kb {
		return ka > kb
	}
	if a.State != b.State {
		return a.State == holepunch.Confirmed
	}
	return a.RTT != 0 && (b.RTT == 0 || a.RTT < b.RTT)
}

func (r *route) clearlyBetter(a, inUse holepunch.PathStatus, now time.Time) bool {
	return now.Sub(r.since) >= settleTime && a.RTT > 0 &&
		inUse.RTT-a.RTT >= betterBy && float64(a.RTT) <= betterRatio*float64(inUse.RTT)
}

// targetOf makes s ready to be written to; nil if its relay is gone.
func (r *route) targetOf(s holepunch.PathStatus) *target {
	t := &target{path: s.Path, remote: net.UDPAddrFromAddrPort(s.Path.Remote)}
	if s.Path.Base != 0 {
		if t.relay = r.bases[s.Path.Base]; t.relay == nil {
			return nil
		}
	}
	return t
}

// use moves data to s.
func (r *route) use(s holepunch.PathStatus, old *target, paths []holepunch.PathStatus, now time.Time) {
	t := r.targetOf(s)
	if t == nil {
		return
	}
	r.hedge.Store(nil)
	r.silence.moved()
	from := r.current()
	r.active, r.since = publicPath(s), now
	r.target.Store(t)
	r.session.SetActive(s.Path)
	r.flushHeld(t)
	r.markFound()
	if old != nil {
		r.repeatTail(t)
	}
	event := Event{Time: now, From: from, To: r.active, Why: why(s, old, paths)}
	r.log.Debug("path chosen", "peer", r.peer.Short(), "kind", r.active.Kind.String(), "via", r.active.Via, "why", event.Why)
	r.onEvent(event)
}

// why explains a change to people.
func why(s holepunch.PathStatus, old *target, paths []holepunch.PathStatus) string {
	if old == nil {
		return "first path that works"
	}
	for _, was := range paths {
		if was.Path != old.path {
			continue
		}
		switch {
		case !usable(was) && was.FailWhy != "":
			return "the path before failed: " + was.FailWhy
		case !usable(was):
			return "the path before failed"
		case kindOf(s.Kind) > kindOf(was.Kind):
			return fmt.Sprintf("a %s path was found", kindOf(s.Kind))
		}
		return "a faster path was found"
	}
	return "the path before is gone"
}
