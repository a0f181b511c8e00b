package peerconn

import (
	"errors"
	"fmt"
	"strings"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// The errors that callers branch on, with errors.Is. ErrOffline and ErrRefused
// are those of package rendezvous.
var (
	ErrOffline = rendezvous.ErrOffline // the peer is not registered at any node that was asked
	ErrRefused = rendezvous.ErrRefused // the peer does not want this call

	// ErrNoNode: no node is configured, named in the ticket, or reachable.
	ErrNoNode = errors.New("no node can be reached")
	// ErrNoPath: signalling worked, and no real path was found or all were lost.
	ErrNoPath = errors.New("no path to the peer works")
	// ErrNoAnswer: the offer was delivered, and the peer did not answer in time.
	ErrNoAnswer = errors.New("the peer did not answer")
)

var errTooMany = errors.New("this host has too many links and calls")

// Attempt is one thing that a failed dial tried.
type Attempt struct {
	What string // "direct to 5.1.2.3:4242", "relay eu1", "node 5.6.7.8:3478"
	Why  string // why it did not work, and how far it got
}

func (a Attempt) String() string { return a.What + ": " + a.Why }

// DialError says why a peer could not be linked: the deciding cause and
// everything that was tried. The host survives; dialing again is possible.
type DialError struct {
	Peer     sallyport.PeerID
	Err      error // the deciding cause, one of the errors above where it fits
	Attempts []Attempt
}

// Error returns the cause and the attempts on one line.
func (e *DialError) Error() string {
	msg := fmt.Sprintf("linking to %s: %v", e.Peer.Short(), e.Err)
	if len(e.Attempts) > 0 {
		msg += " (tried " + strings.Join(e.Lines(), "; ") + ")"
	}
	return msg
}

// Lines returns one line for each attempt.
func (e *DialError) Lines() []string {
	var lines []string
	for _, a := range e.Attempts {
		lines = append(lines, a.String())
	}
	return lines
}

// Unwrap returns the deciding cause.
func (e *DialError) Unwrap() error { return e.Err }

// attempts turns the paths of a route into what was tried.
func attempts(reports []PathReport) []Attempt {
	var out []Attempt
	for _, p := range reports {
		why := p.Why
		if why == "" {
			why = "no answer yet (" + p.State.String() + ")"
			if p.State == holepunch.Confirmed || p.State == holepunch.Heard {
				why = "worked"
			}
		}
		what := fmt.Sprintf("%s to %s", p.Kind, p.Remote)
		if p.Via != "" {
			what += " via " + p.Via
		}
		out = append(out, Attempt{What: what, Why: why})
	}
	return out
}
