package server

import (
	"net"

	"github.com/pion/stun/v4"
)

// WriteTo sends what pion has for a client: responses from the goroutine that owns current, and
// Data indications from those of the allocations.
func (l *listener) WriteTo(b []byte, to net.Addr) (int, error) {
	client := addrPortOf(to)
	if len(b) >= stunHeaderSize && b[0] < firstNonSTUNByte && b[0]&responseClassBit != 0 {
		b = l.response(b)
		if b == nil {
			return 0, nil
		}
	}
	n, err := l.sock.write(b, client)
	if err == nil && b[0] < firstNonSTUNByte && b[0]&responseClassBit == 0 {
		l.server.stats.relayedDown(n)
	}
	return n, err
}

// response checks and corrects pion's response b to the current request; nil: none is sent.
func (l *listener) response(b []byte) []byte {
	r := &l.current
	r.answered = true
	if r.key == nil { // not authenticated: do not let it be a weapon
		if len(b) > maxAmplification*len(r.raw) {
			l.server.stats.limited.Add(1)
			return nil
		}
		if !r.paid && !l.server.limiter.allow(r.src.Addr()) {
			l.server.stats.limited.Add(1)
			return nil
		}
		return b
	}
	isError := b[0]&0x01 != 0 && b[1]&0x10 != 0
	if isError && r.code != 0 {
		return l.errorResponse(r.code)
	}
	return b
}

// errorResponse builds an authenticated error response to the current request.
func (l *listener) errorResponse(code int) []byte {
	r := &l.current
	m, err := stun.Build(
		stun.NewTransactionIDSetter(r.id),
		stun.NewType(r.typ.Method, stun.ClassErrorResponse),
		stun.ErrorCode(code),
		r.key,
	)
	if err != nil {
		return nil
	}
	return m.Raw
}

// silent is called when pion gave up on a request. It does so without a word where an authentic
// request names an allocation that is not there or is another user's; RFC 8489 and RFC 8656 §5
// want 437 (Allocation Mismatch) and 441 (Wrong Credentials).
func (l *listener) silent() {
	r := &l.current
	if r.key == nil || r.answered || r.typ.Class != stun.ClassRequest {
		return
	}
	code := codeMismatch
	if a := l.alloc(r.src); a != nil && a.user != r.user {
		code = codeWrongUser
	}
	if b := l.errorResponse(code); b != nil {
		r.answered = true
		_, _ = l.sock.write(b, r.src)
	}
}
