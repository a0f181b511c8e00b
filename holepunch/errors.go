package holepunch

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// The errors that callers branch on, with errors.Is.
var (
	// ErrMalformed: the bytes do not follow the layout.
	ErrMalformed = errors.New("holepunch: malformed")
	// ErrForged: an offer, answer or check that is not from the peer it claims, was
	// changed on the way, is meant for somebody else, or is one of our own reflected.
	ErrForged = errors.New("holepunch: not authentic")
	// ErrReplay: authentic, but seen before or too old to tell.
	ErrReplay = errors.New("holepunch: replayed")
	// ErrTooLarge: a sealed offer, answer or update would exceed MaxSealed bytes.
	ErrTooLarge = errors.New("holepunch: too large")
	// ErrOtherOffer: an answer or update that belongs to a different offer.
	ErrOtherOffer = errors.New("holepunch: belongs to another offer")
	// ErrForbidden: an address that is never punched to. See Punchable.
	ErrForbidden = errors.New("holepunch: forbidden address")
	// ErrLimit: a bound of a Session is reached; the packet or candidate is ignored.
	ErrLimit = errors.New("holepunch: limit reached")
	// ErrNoBase: a packet for a sending point that the Session was not told of.
	ErrNoBase = errors.New("holepunch: unknown base")
	// ErrNoAnswer: a STUN server did not answer any retransmission (RFC 8489 section 6.2.1).
	ErrNoAnswer = errors.New("holepunch: STUN server did not answer")
)

// TooLargeError says which part of an offer, answer or update is to blame.
// It is ErrTooLarge for errors.Is.
type TooLargeError struct {
	Size, Limit int    // bytes, sealed
	Culprit     string // "candidates (12 in 230 bytes)" or "flight (3 datagrams in 3840 bytes)"
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("holepunch: too large: %d bytes sealed, at most %d; mostly %s", e.Size, e.Limit, e.Culprit)
}

// Is reports whether target is ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// A STUNError is an error response of a STUN server (RFC 8489 section 14.8).
type STUNError struct {
	Server netip.AddrPort
	Code   int // 300 to 699
	Reason string
}

func (e *STUNError) Error() string {
	return fmt.Sprintf("holepunch: STUN server %v answered %d %q", e.Server, e.Code, e.Reason)
}

// A PathError says why one path does not work.
type PathError struct{ PathStatus }

func (e *PathError) Error() string {
	kind := e.Kind.String()
	if e.Via != "" {
		kind += " via " + e.Via
	}
	why := e.FailWhy
	if e.State == Confirmed {
		why = fmt.Sprintf("%v answers us, but did not say that we answer it", e.Path.Remote)
	}
	return fmt.Sprintf("%s: %s", kind, why)
}

// A PunchError says that no path was opened: why it was given up, and every path
// that was tried. The Session survives.
type PunchError struct {
	Cause error
	Paths []*PathError
}

func newPunchError(cause error, paths []PathStatus) *PunchError {
	e := &PunchError{Cause: cause}
	for _, p := range paths {
		e.Paths = append(e.Paths, &PathError{p})
	}
	return e
}

func (e *PunchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "holepunch: no path: %v", e.Cause)
	for _, p := range e.Paths {
		b.WriteString("\n\t" + p.Error())
	}
	return b.String()
}

// Unwrap returns the cause and then every *PathError.
func (e *PunchError) Unwrap() []error {
	out := []error{e.Cause}
	for _, p := range e.Paths {
		out = append(out, p)
	}
	return out
}
