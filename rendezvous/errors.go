package rendezvous

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// Why a call, or a request to the node, did not do what was asked. The client
// goes on; a call is over after any of them, except after ErrTooLarge and
// after ErrBudget from [Call.Send].
var (
	// ErrOffline: the callee is not registered at this node, or vanished. A
	// node does not tell a peer that is away from one that never was.
	ErrOffline = errors.New("peer is offline")
	// ErrRefused: the callee said no. The error is a *[RefusedError].
	ErrRefused = errors.New("peer refused the call")
	// ErrBudget: the call has carried [CallBudget] bytes.
	ErrBudget = errors.New("call has used up its bytes")
	// ErrLimited: the node's limits for this peer, this pair or the callee.
	ErrLimited = errors.New("too many calls")
	// ErrTooLarge: an offer or message is empty or above [MaxMessage].
	ErrTooLarge = errors.New("message is empty or too large")
	// ErrExpired: the call has lasted for [CallLifetime].
	ErrExpired = errors.New("call has expired")
	// ErrTakenOver: another program registered with the same key. This one
	// waits until that one leaves.
	ErrTakenOver = errors.New("another program is registered with the same key")
)

// RefusedError carries the callee's own reason; it is an [ErrRefused].
type RefusedError struct {
	Reason string // at most [MaxReason] bytes, not to be trusted; may be empty
}

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return ErrRefused.Error()
	}
	return ErrRefused.Error() + ": " + strconv.Quote(e.Reason)
}

// Is makes errors.Is(err, ErrRefused) true.
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// NodeError is a failure of the node or of the way to it, as opposed to one
// of the peer called. The client keeps trying; what was under way is lost and
// may be tried again.
type NodeError struct {
	Node sallyport.NodeURL
	Err  error
}

func (e *NodeError) Error() string { return fmt.Sprintf("node %s: %v", e.Node.HostPort(), e.Err) }

// Unwrap returns the cause.
func (e *NodeError) Unwrap() error { return e.Err }

var (
	errRestarted = errors.New("node restarted")
	errLeaving   = errors.New("node is shutting down")
	errSilent    = errors.New("node does not answer")
	errProtocol  = errors.New("node broke the protocol")
)

// nodeCause turns what QUIC says into what a caller can use. QUIC's own errors
// wrap net.ErrClosed, which in this package means that the client was closed;
// so they are not wrapped.
func nodeCause(err error) error {
	if app, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return closeCause(app)
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return errRestarted
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return errSilent
	}
	if _, ok := errors.AsType[*quic.HandshakeTimeoutError](err); ok {
		return errSilent
	}
	if errors.Is(err, sallyport.ErrWrongPeer) {
		return fmt.Errorf("its key is not the one in its URL: %w", sallyport.ErrWrongPeer)
	}
	if transport, ok := errors.AsType[*quic.TransportError](err); ok {
		return errors.New(transport.Error())
	}
	return err
}

func closeCause(app *quic.ApplicationError) error {
	switch app.ErrorCode {
	case wire.CodeTakenOver, wire.CodeTaken:
		return ErrTakenOver
	case wire.CodeLimited:
		return fmt.Errorf("%w: node closed the connection", ErrLimited)
	case wire.CodeLeaving:
		return errLeaving
	case wire.CodeGone:
		return errSilent
	case wire.CodeProtocol:
		return errProtocol
	}
	return fmt.Errorf("node closed the connection: code %d", app.ErrorCode)
}

// endCause is what an End frame means to the caller.
func endCause(end wire.End) error {
	switch end.Code {
	case wire.EndOffline:
		return ErrOffline
	case wire.EndRefused:
		return &RefusedError{Reason: end.Reason}
	case wire.EndLimited:
		return fmt.Errorf("%w: %q", ErrLimited, end.Reason)
	case wire.EndBudget:
		return ErrBudget
	case wire.EndExpired:
		return ErrExpired
	case wire.EndTooLarge:
		return ErrTooLarge
	}
	return fmt.Errorf("node says %q", end.Reason)
}
