package peerconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// What people read when a dial fails, to the letter.
func TestDialErrorText(t *testing.T) {
	peer := sallyport.PeerID{1}
	silent := status(1, holepunch.Direct, waiting, 0)
	works := status(2, holepunch.Relay, heard, 0)
	dead := status(3, holepunch.LAN, failed, 0)
	dead.FailWhy = "no answer to 12 checks in 10.0 s"
	var reports []PathReport
	for _, s := range []holepunch.PathStatus{silent, works, dead} {
		reports = append(reports, PathReport{Path: publicPath(s), State: s.State, Why: s.FailWhy})
	}
	err := error(&DialError{Peer: peer, Err: ErrNoPath, Attempts: attempts(reports)})
	want := "linking to " + peer.Short() + ": no path to the peer works (tried " +
		"direct to 192.0.2.1:4000: no answer yet (" + waiting.String() + "); " +
		"relay to 192.0.2.2:4000 via relay: worked; " +
		"lan to 192.0.2.3:4000: no answer to 12 checks in 10.0 s)"
	if err.Error() != want {
		t.Errorf("%s\nwant %s", err, want)
	}
	lines := []string{
		"direct to 192.0.2.1:4000: no answer yet (" + waiting.String() + ")",
		"relay to 192.0.2.2:4000 via relay: worked",
		"lan to 192.0.2.3:4000: no answer to 12 checks in 10.0 s",
	}
	if got := err.(*DialError).Lines(); !slices.Equal(got, lines) {
		t.Errorf("lines %q", got)
	}
	if !errors.Is(err, ErrNoPath) {
		t.Error("the cause is not wrapped")
	}
	if bare := (&DialError{Peer: peer, Err: ErrOffline}).Error(); bare != "linking to "+peer.Short()+": "+ErrOffline.Error() {
		t.Error(bare)
	}
}

// The deciding cause of several nodes: that a node said the peer is offline
// outweighs a node that cannot be reached, whichever came first.
func TestDialErrorOverNodes(t *testing.T) {
	one := sallyport.NodeURL{ID: sallyport.PeerID{1}, Host: "192.0.2.1", Port: 3478}
	two := sallyport.NodeURL{ID: sallyport.PeerID{2}, Host: "node.test", Port: 4000}
	lost := func(u sallyport.NodeURL) error {
		return fmt.Errorf("calling: %w", &rendezvous.NodeError{Node: u, Err: errors.New("timeout")})
	}
	refused := &DialError{Err: fmt.Errorf("%w: no", ErrRefused), Attempts: []Attempt{{"direct to 192.0.2.9:1", "no answer"}}}
	for name, test := range map[string]struct {
		at    []error
		is    error
		not   error
		lines []string
	}{
		"both lost": {[]error{lost(one), lost(two)}, ErrNoNode, ErrOffline,
			[]string{"node 192.0.2.1:3478: timeout", "node node.test:4000: timeout"}},
		"offline, then lost": {[]error{ErrOffline, lost(two)}, ErrOffline, ErrNoNode,
			[]string{"node 192.0.2.1:3478: " + ErrOffline.Error(), "node node.test:4000: timeout"}},
		"lost, then offline": {[]error{lost(one), ErrOffline}, ErrOffline, ErrNoNode,
			[]string{"node 192.0.2.1:3478: timeout", "node node.test:4000: " + ErrOffline.Error()}},
		"lost, then refused": {[]error{lost(one), refused}, ErrRefused, ErrNoNode,
			[]string{"node 192.0.2.1:3478: timeout", "direct to 192.0.2.9:1: no answer", "node node.test:4000: " + ErrRefused.Error() + ": no"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &DialError{Err: ErrNoNode}
			e.add(one, test.at[0])
			e.add(two, test.at[1])
			if !errors.Is(e, test.is) || errors.Is(e, test.not) {
				t.Errorf("the cause is %v", e.Err)
			}
			if got := e.Lines(); !slices.Equal(got, test.lines) {
				t.Errorf("lines %q\nwant  %q", got, test.lines)
			}
		})
	}
}

func TestLinkEnd(t *testing.T) {
	app := func(remote bool, code quic.ApplicationErrorCode, msg string) error {
		return &quic.ApplicationError{Remote: remote, ErrorCode: code, ErrorMessage: msg}
	}
	for want, test := range map[string]struct {
		err error
		is  error
	}{
		"the peer closed the link: \"bye\"":                                      {app(true, codeClosed, "bye"), net.ErrClosed},
		"the peer closed the link":                                               {app(true, codeClosed, ""), net.ErrClosed},
		"the peer closed the link: \"no call is waiting for this\"":              {app(true, codeNoRoute, "no call is waiting for this"), net.ErrClosed},
		"no path to the peer works: the peer says \"none\"":                      {app(true, codeNoPath, "none"), ErrNoPath},
		"use of closed network connection":                                       {app(false, codeClosed, ""), net.ErrClosed},
		"no path to the peer works: nothing was heard from the peer any more":    {&quic.IdleTimeoutError{}, ErrNoPath},
		"the link broke: " + (&quic.StatelessResetError{}).Error():               {&quic.StatelessResetError{}, net.ErrClosed},
		"the link broke: " + (&quic.TransportError{ErrorMessage: "odd"}).Error(): {&quic.TransportError{ErrorMessage: "odd"}, net.ErrClosed},
	} {
		if got := linkEnd(test.err); got.Error() != want || !errors.Is(got, test.is) {
			t.Errorf("%v becomes %q, want %q that is %v", test.err, got, want, test.is)
		}
	}
	for _, err := range []error{nil, context.Canceled, quic.ErrTransportClosed} {
		if got := linkEnd(err); got != net.ErrClosed {
			t.Errorf("%v becomes %v, want net.ErrClosed", err, got)
		}
	}
}

func TestHandshakeError(t *testing.T) {
	live := context.Background()
	late, cancel := context.WithTimeout(live, -1)
	defer cancel()
	reason := errors.New("changed my mind")
	gone, end := context.WithCancelCause(live)
	end(reason)
	for name, test := range map[string]struct {
		ctx context.Context
		err error
		is  error
	}{
		"idle":      {live, &quic.IdleTimeoutError{}, ErrNoAnswer},
		"slow":      {live, &quic.HandshakeTimeoutError{}, ErrNoAnswer},
		"deadline":  {late, context.DeadlineExceeded, ErrNoAnswer},
		"cancelled": {gone, context.Canceled, reason},
		"TLS":       {live, sallyport.ErrWrongPeer, sallyport.ErrWrongPeer},
	} {
		if got := handshakeError(test.ctx, test.err); !errors.Is(got, test.is) {
			t.Errorf("%s: %v, want %v", name, got, test.is)
		}
	}
}
