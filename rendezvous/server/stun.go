package server

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	stunMethodMask    = 0x3eef // type without the class bits, RFC 8489 section 5
	stunBinding       = 0x0001
	stunChangePort    = 0x02 // CHANGE-REQUEST, RFC 5780 section 7.2
	stunChangeIP      = 0x04
	stunAmplification = 3 // no answer is larger than so many times its request
	minResponsePort   = 1024
)

// isBinding reports whether a STUN message is of the Binding method.
func isBinding(b []byte) bool {
	return binary.BigEndian.Uint16(b)&stunMethodMask == stunBinding
}

// stunServer answers Binding requests (RFC 8489), and with two IP addresses
// and two ports those of RFC 5780.
type stunServer struct {
	server *Server
	others map[*socket]alternates // of sockets that have them
}

// alternates are the sockets that CHANGE-REQUEST may ask to answer from.
type alternates struct{ ip, port, both *socket }

func newSTUNServer(s *Server) *stunServer {
	t := &stunServer{server: s, others: make(map[*socket]alternates)}
	at := make(map[netip.AddrPort]*socket)
	for _, sock := range s.sockets {
		if a := sock.public; a.IsValid() && !a.Addr().IsUnspecified() {
			at[a] = sock
		}
	}
	for _, sock := range s.sockets {
		for _, other := range s.sockets {
			a, b := sock.public, other.public
			if a.Addr() == b.Addr() || a.Port() == b.Port() || a.Addr().Is4() != b.Addr().Is4() {
				continue
			}
			alt := alternates{
				ip:   at[netip.AddrPortFrom(b.Addr(), a.Port())],
				port: at[netip.AddrPortFrom(a.Addr(), b.Port())],
				both: at[b],
			}
			if alt.ip != nil && alt.port != nil && alt.both != nil && at[a] == sock {
				t.others[sock] = alt
				break
			}
		}
	}
	return t
}

// addrs is where this node answers STUN, the socket of s first.
func (t *stunServer) addrs(s *session) []netip.AddrPort {
	if t.server.cfg.NoSTUN {
		return nil
	}
	list := []netip.AddrPort{s.socket.public}
	for _, sock := range t.server.sockets {
		if !slices.Contains(list, sock.public) && len(list) < wire.MaxAddrs {
			list = append(list, sock.public)
		}
	}
	return list
}

// receive answers a message of the Binding method that is well-formed.
func (t *stunServer) receive(b []byte, from netip.AddrPort, via []byte, sock *socket) {
	now := time.Now()
	limits := t.server.limits
	if !limits.stunPrefix.allow(limits.key(wide(from)), now, 1) || !limits.stun.allow(0, now, 1) {
		t.server.counters.stunDropped.Add(1)
		return
	}
	request := &stun.Message{Raw: b}
	if request.Decode() != nil || request.Type != stun.BindingRequest {
		return
	}
	answer, out, to := t.answer(request, from, sock)
	if answer == nil {
		return
	}
	t.server.counters.stun.Add(1)
	if out != sock {
		via = nil
	}
	out.write(answer.Raw, to, via) // lost where that fails, as any datagram may be
}

// answer builds the response, and says from where and to where it goes.
func (t *stunServer) answer(request *stun.Message, from netip.AddrPort, sock *socket) (*stun.Message, *socket, netip.AddrPort) {
	out, to := sock, from
	alt, full := t.others[sock]
	if unknown := unknownAttributes(request, full); len(unknown) > 0 {
		m := build(request, stun.BindingError, stun.CodeUnknownAttribute, unknown)
		return m, out, to
	}
	if full {
		out = alt.choose(request, sock)
		port, ok := responsePort(request)
		if !ok {
			return build(request, stun.BindingError, stun.CodeBadRequest), sock, from
		}
		if port != 0 {
			to = netip.AddrPortFrom(from.Addr(), port)
		}
	}
	mapped := &stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}
	m := build(request, stun.BindingSuccess, mapped)
	if m == nil {
		return nil, nil, to
	}
	if full {
		optional(m, request, &stun.OtherAddress{IP: alt.both.public.Addr().AsSlice(), Port: int(alt.both.public.Port())})
		optional(m, request, &stun.ResponseOrigin{IP: out.public.Addr().AsSlice(), Port: int(out.public.Port())})
	}
	if request.Contains(stun.AttrFingerprint) && stun.Fingerprint.AddTo(m) != nil {
		return nil, nil, to
	}
	return m, out, to
}

// build makes a response to request; nil if that cannot be.
func build(request *stun.Message, kind stun.MessageType, setters ...stun.Setter) *stun.Message {
	m := &stun.Message{Type: kind, TransactionID: request.TransactionID}
	m.WriteHeader()
	for _, set := range setters {
		if set.AddTo(m) != nil {
			return nil
		}
	}
	return m
}

// optional adds an attribute that an answer may lack, unless the answer would
// be worth sending to a forged source. A client that wants all of RFC 5780 over
// IPv6 pads its request, with SOFTWARE for example, to 31 bytes or more.
func optional(m, request *stun.Message, attr stun.Setter) {
	before := *m
	if attr.AddTo(m) != nil || len(m.Raw) > stunAmplification*len(request.Raw) {
		*m = before
		m.Raw = m.Raw[:len(before.Raw)]
		m.WriteHeader()
	}
}

// choose follows the request's CHANGE-REQUEST.
func (alt alternates) choose(request *stun.Message, sock *socket) *socket {
	v, err := request.Get(stun.AttrChangeRequest)
	if err != nil {
		return sock
	}
	switch v[3] & (stunChangeIP | stunChangePort) { // ValidSTUN has seen to its 4 bytes
	case stunChangeIP:
		return alt.ip
	case stunChangePort:
		return alt.port
	case stunChangeIP | stunChangePort:
		return alt.both
	}
	return sock
}

// responsePort reads RESPONSE-PORT (RFC 5780 section 7.5); zero is none. Ports
// below 1024 are not for a stranger to have packets sent to.
func responsePort(request *stun.Message) (port uint16, ok bool) {
	v, err := request.Get(stun.AttrResponsePort)
	if err != nil {
		return 0, true
	}
	if len(v) < 2 {
		return 0, false
	}
	port = binary.BigEndian.Uint16(v)
	return port, port >= minResponsePort
}

// understood are the comprehension-required attributes that a Binding request
// may carry: those for authentication and ICE are ignored.
var understood = []stun.AttrType{
	stun.AttrUsername, stun.AttrMessageIntegrity, stun.AttrMessageIntegritySHA256, stun.AttrRealm,
	stun.AttrNonce, stun.AttrPasswordAlgorithm, stun.AttrUserhash, stun.AttrPriority, stun.AttrUseCandidate,
}

const maxUnknown = 8

// unknownAttributes lists what the request requires and this socket cannot do.
// "If the server ... does not have an alternate address and port ... MUST return
// an error response" with 420 (RFC 5780 section 6.1).
func unknownAttributes(request *stun.Message, full bool) stun.UnknownAttributes {
	var unknown stun.UnknownAttributes
	for _, attr := range request.Attributes {
		t := attr.Type
		known := slices.Contains(understood, t) ||
			full && (t == stun.AttrChangeRequest || t == stun.AttrResponsePort)
		if t.Required() && !known && !slices.Contains(unknown, t) && len(unknown) < maxUnknown {
			unknown = append(unknown, t)
		}
	}
	return unknown
}
