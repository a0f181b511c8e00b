package server

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// listener is one listening socket, as pion sees it: a net.PacketConn with our filter, admission
// and data plane inside. pion reads it in one goroutine, which alone touches current.
type listener struct {
	server *Server
	sock   socket
	local  netip.AddrPort

	current request

	mu     sync.RWMutex // guards allocs
	allocs map[netip.AddrPort]*allocation

	closeOnce sync.Once
	ended     chan struct{} // pion's read loop is over
}

var _ net.PacketConn = (*listener)(nil)

func newListener(s *Server, conn net.PacketConn) *listener {
	return &listener{
		server: s,
		sock:   newSocket(conn),
		local:  addrPortOf(conn.LocalAddr()),
		allocs: make(map[netip.AddrPort]*allocation),
		ended:  make(chan struct{}),
	}
}

// maxReadErrors is how many reads in a row may fail before a socket counts as dead.
const maxReadErrors = 64

// ReadFrom gives pion the next STUN message that passes; everything else is dealt with here.
func (l *listener) ReadFrom(b []byte) (int, net.Addr, error) {
	l.settle()
	for failed := 0; ; {
		n, from, err := l.sock.read(b)
		if err != nil {
			if failed++; failed < maxReadErrors && !errors.Is(err, net.ErrClosed) {
				continue // an ICMP error reported on the socket, say
			}
			close(l.ended)
			return 0, nil, net.ErrClosed
		}
		failed = 0
		if from.Port() != 0 && l.accept(b[:n], from) {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
	}
}

// accept reports whether b is for pion. It must not cost more than the packet is worth: this is
// where a flood arrives.
func (l *listener) accept(b []byte, from netip.AddrPort) bool {
	stats := &l.server.stats
	switch {
	case len(b) >= channelDataHeadLen && b[0] >= firstChannelByte && b[0] <= lastChannelByte:
		l.channelData(b, from)
		return false
	case packet.ValidSTUN(b) != nil:
		stats.filtered.Add(1)
		return false
	}
	r, hasIntegrity, sane := inspect(b, from)
	if !sane {
		stats.filtered.Add(1)
		return false
	}
	known := l.alloc(from) != nil
	if r.typ.Class == stun.ClassIndication && !known {
		stats.filtered.Add(1)
		return false
	}
	// Whoever has no allocation yet pays for being listened to: checking a signature costs more
	// than making up a wrong one.
	if r.typ.Class == stun.ClassRequest && (!known || !hasIntegrity) {
		if !l.server.limiter.allow(from.Addr()) {
			stats.limited.Add(1)
			return false
		}
		r.paid = true
	}
	l.current = r
	return true
}

// channelData relays a ChannelData message (RFC 8656 §12.6): "If the channel number … is not
// currently bound … the message is silently discarded".
func (l *listener) channelData(b []byte, from netip.AddrPort) {
	number, payload, err := packet.ParseChannelData(b)
	if err != nil {
		l.server.stats.filtered.Add(1)
		return
	}
	a := l.alloc(from)
	if a == nil {
		l.server.stats.filtered.Add(1)
		return
	}
	if peer, ok := a.channelPeer(number); ok {
		_, _ = a.send(payload, peer) // a datagram that cannot be sent is lost, as on any path
	}
}

func (l *listener) alloc(client netip.AddrPort) *allocation {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.allocs[client]
}

func (l *listener) add(a *allocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allocs[a.client] = a
}

// remove forgets a, unless a newer allocation of the same client has taken its place.
func (l *listener) remove(a *allocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.allocs[a.client] == a {
		delete(l.allocs, a.client)
	}
}

// settle ends the request that pion has finished.
func (l *listener) settle() {
	l.current.slot.release()
	l.current = request{}
}

// authenticate is pion's AuthHandler.
func (l *listener) authenticate(ra *turn.RequestAttributes) (userID string, key []byte, ok bool) {
	user, k, ok := l.server.verifier.verify(l.current.raw, ra)
	if !ok {
		l.server.stats.unauthorized.Add(1)
		return "", nil, false
	}
	l.current.user, l.current.key = user, k
	return user, k, true
}

// admit is pion's QuotaHandler; the slot it takes goes to the allocation or back.
func (l *listener) admit(user, _ string, _ net.Addr) bool {
	s, code := l.server.ledger.take(user, l.current.src.Addr())
	if code != 0 {
		l.server.stats.refused.Add(1)
		l.current.code = code
		return false
	}
	l.current.slot = s
	return true
}

// permit is pion's PermissionHandler, for CreatePermission and ChannelBind.
func (l *listener) permit(_ net.Addr, ip net.IP) bool {
	addr, _ := netip.AddrFromSlice(ip)
	if !l.server.policy.permits(addr) {
		l.server.stats.denied.Add(1)
		l.current.code = codeForbidden
		return false
	}
	if l.current.typ.Method == stun.MethodChannelBind && (l.current.channel < firstChannel || l.current.channel > lastChannel) {
		l.current.code = codeBadRequest
		return false
	}
	a := l.alloc(l.current.src)
	if a != nil && !a.hasRoom(addr.Unmap(), l.current.channel) {
		l.server.stats.refused.Add(1)
		l.current.code = codeCapacity
		return false
	}
	return true
}

// LocalAddr is the listening address.
func (l *listener) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(l.local) }

// Close closes the socket and so ends pion's read loop.
func (l *listener) Close() error {
	l.closeOnce.Do(func() { _ = l.sock.Close() }) // closed either way
	return nil
}

// SetDeadline and its kin are not used by pion.
func (l *listener) SetDeadline(t time.Time) error      { return l.sock.SetDeadline(t) }
func (l *listener) SetReadDeadline(t time.Time) error  { return l.sock.SetReadDeadline(t) }
func (l *listener) SetWriteDeadline(t time.Time) error { return l.sock.SetWriteDeadline(t) }
