package relay

import (
	"errors"
	"fmt"
)

// What a caller can branch on; an answer of the server matches by its code (see [Error]).
var (
	ErrUnauthorized = errors.New("relay: wrong or expired credential")             // 401
	ErrForbidden    = errors.New("relay: the server does not relay to this peer")  // 403
	ErrMismatch     = errors.New("relay: the server does not know the allocation") // 437
	ErrFamily       = errors.New("relay: address family not supported")            // 440, 443
	ErrQuota        = errors.New("relay: allocation quota reached")                // 486
	ErrCapacity     = errors.New("relay: the server has no capacity left")         // 508
	ErrTimeout      = errors.New("relay: the server does not answer")
	ErrProtocol     = errors.New("relay: the server's answer makes no sense")
	ErrUsername     = errors.New("relay: not the username of a time-limited credential")
	ErrPeer         = errors.New("relay: not an address that can be relayed to")
)

// Error is an error response of the server (RFC 8489 §14.8, RFC 8656 §19). errors.Is matches it
// with the sentinel of its code.
type Error struct {
	Method string // the request it answers: "Allocate", "Refresh", …
	Code   int    // 300 to 699
	Reason string // the server's words; not to be trusted
}

func (e *Error) Error() string {
	what := fmt.Sprintf("%s: %d", e.Method, e.Code)
	if e.Reason != "" {
		what += fmt.Sprintf(" %q", e.Reason)
	}
	if known := sentinelOf(e.Code); known != nil {
		return fmt.Sprintf("%v (%s)", known, what)
	}
	return "relay: refused (" + what + ")"
}

// Is reports whether target is the sentinel of e's code.
func (e *Error) Is(target error) bool { return target != nil && target == sentinelOf(e.Code) }

func sentinelOf(code int) error {
	switch code {
	case 401, 441:
		return ErrUnauthorized
	case 403:
		return ErrForbidden
	case 437:
		return ErrMismatch
	case 440, 443:
		return ErrFamily
	case 486:
		return ErrQuota
	case 508:
		return ErrCapacity
	}
	return nil
}
