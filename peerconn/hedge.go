package peerconn

import (
	"sync"
	"time"

	"github.com/sallyport-net/sallyport/holepunch"
)

// hedgeLimit ends a doubt that nothing resolves: no path may work at all.
const hedgeLimit = 3 * time.Second

// doubt is for when the peer has gone silent: the path in use is probed, and
// until that is decided data also goes over the next best one. The caller holds
// the mutex.
func (r *route) doubt(now time.Time) {
	t := r.target.Load()
	if t == nil {
		return
	}
	r.session.Probe(now, t.path)
	if r.hedge.Load() != nil {
		return
	}
	var spare holepunch.PathStatus
	found := false
	for _, s := range r.paths() {
		if s.Path != t.path && s.State == holepunch.Confirmed && (!found || better(s, spare)) {
			spare, found = s, true
		}
	}
	if found {
		r.doubted = now
		h := r.targetOf(spare)
		r.hedge.Store(h)
		r.repeatTail(h)
	}
}

// reviewHedge ends the doubt once the path in use was confirmed again. Where it
// failed instead, choose has moved the data and ended the doubt itself.
func (r *route) reviewHedge(now time.Time) {
	if r.hedge.Load() == nil {
		return
	}
	answered := r.inUse(r.paths()).Answered.After(r.doubted)
	if answered {
		r.silence.unfounded()
	}
	if answered || now.Sub(r.doubted) > hedgeLimit {
		r.hedge.Store(nil)
	}
}

// tail remembers the last datagram that was written. Sent again over a path that
// works, it makes the peer's QUIC acknowledge at once what did arrive, so that ours
// need not wait for a timer that has backed off.
type tail struct {
	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) keep(b []byte, segment int) {
	if segment > 0 {
		b = b[(len(b)-1)/segment*segment:]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b[:0], b...)
}

func (t *tail) get() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.b...)
}

// repeatTail writes the last datagram again, to t.
func (r *route) repeatTail(t *target) {
	if b := r.tail.get(); t != nil && len(b) > 0 {
		r.writeTarget(t, b, 0)
	}
}
