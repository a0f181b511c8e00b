package server

import (
	"net/netip"
	"sync"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// registry knows who is connected. Its size is bounded by Limits.Connections.
type registry struct {
	limits *limiters

	mu       sync.Mutex // guards what follows
	closed   bool
	total    int
	prefixes map[netip.Prefix]int
	sessions map[*session]struct{}
	callable map[sallyport.PeerID]*session
}

func newRegistry(l *limiters) *registry {
	return &registry{
		limits:   l,
		prefixes: make(map[netip.Prefix]int),
		sessions: make(map[*session]struct{}),
		callable: make(map[sallyport.PeerID]*session),
	}
}

// enter counts a connection that begins, and reports whether it may.
func (r *registry) enter(from netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed ||
		r.limits.connections >= 0 && r.total >= r.limits.connections ||
		r.limits.perPrefix >= 0 && r.prefixes[from] >= r.limits.perPrefix {
		return false
	}
	r.total++
	r.prefixes[from]++
	return true
}

// leave undoes enter.
func (r *registry) leave(from netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total--
	if r.prefixes[from]--; r.prefixes[from] <= 0 {
		delete(r.prefixes, from)
	}
}

// add makes a session known; false where the node is closing.
func (r *registry) add(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.sessions[s] = struct{}{}
	}
	return !r.closed
}

// remove forgets a session, and its registration if it is still its own.
func (r *registry) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
	if r.callable[s.id] == s {
		delete(r.callable, s.id)
	}
}

// register makes s the one that calls to its PeerID go to. It returns the
// session that was, which the caller disconnects. With yield it fails where
// another program is registered.
func (r *registry) register(s *session, instance [8]byte, yield bool) (old *session, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old = r.callable[s.id]
	if old != nil && yield && old.instance != instance {
		return nil, false
	}
	s.instance = instance
	r.callable[s.id] = s
	return old, true
}

func (r *registry) find(id sallyport.PeerID) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.callable[id]
}

// closeAll tells every peer that the node leaves, and lets nobody in any more.
func (r *registry) closeAll() {
	r.mu.Lock()
	r.closed = true
	all := r.sessions
	r.sessions = make(map[*session]struct{})
	r.mu.Unlock()
	var wg sync.WaitGroup
	for s := range all {
		wg.Go(func() { s.conn.CloseWithError(wire.CodeLeaving, "node is leaving") })
	}
	wg.Wait()
}

func (r *registry) count() (connections, callable int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total, len(r.callable)
}
