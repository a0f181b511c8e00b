package peerconn

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
)

// A peer that was dialed may try to dial back over the path of the link: a
// second connection on one route is turned away, and the link lives on.
func TestSecondConnectionOnARoute(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	for name, hostile := range map[string]*Link{"from the callee": to, "from the caller": from} {
		conn, err := hostile.h.quic.Dial(patience(t), hostile.r.virtual, hostile.h.linkTLS(hostile.Peer()), hostile.h.quicConfig())
		if err != nil {
			continue // turned away in the handshake
		}
		select {
		case <-conn.Context().Done():
		case <-patience(t).Done():
			t.Errorf("the second connection %s lives", name)
		}
	}
	roundTrip(t, from, to)
	roundTrip(t, to, from)
}

// roundTrip sends a byte on a fresh stream and back.
func roundTrip(t testing.TB, from, to *Link) {
	t.Helper()
	out, err := from.OpenStream(patience(t))
	check(t, err)
	_, err = out.Write([]byte("?"))
	check(t, err)
	in, err := to.AcceptStream(patience(t))
	check(t, err)
	b := make([]byte, 1)
	_, err = in.Read(b)
	check(t, err)
	_, err = in.Write(b)
	check(t, err)
	_, err = out.Read(b)
	check(t, err)
	out.Close()
	in.Close()
}

// "Allow decides who may call": a peer that may not, and whose call was taken
// only because it crossed with a dial of ours, gets no link once that dial is over.
func TestCrossedLinkOfAPeerWhoMayNotCall(t *testing.T) {
	node := nodeAt(t, localSite(), false)
	a := hostAt(t, localSite(), node, func(c *Config) { c.Allow = nil })
	b := hostAt(t, localSite(), node, nil)
	ready(t, a, b)
	from, to := linked(t, a, b)
	_ = from
	// What completeLink does with a link that came after the dial had ended.
	a.accepted(from.r, from)
	select {
	case l := <-a.queue:
		t.Fatalf("a link of %v waits for Accept, which nobody calls", l.Peer().Short())
	default:
	}
	select {
	case <-to.Context().Done():
	case <-patience(t).Done():
		t.Fatal("the link lives on")
	}
}

func TestCloseIsIdempotentAndConcurrent(t *testing.T) {
	a, b := localPair(t)
	from, _ := linked(t, a, b)
	accepting := make(chan error, 1)
	go func() {
		_, err := a.Accept(patience(t))
		accepting <- err
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			a.Close()
			if err := a.sock.pc.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Close returned before the socket was closed: %v", err)
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	wantClosed(t, "a blocked Accept", <-accepting)
	_, err := a.Accept(patience(t))
	wantClosed(t, "Accept", err)
	_, err = a.Dial(patience(t), b.Ticket())
	wantClosed(t, "Dial", err)
	wantClosed(t, "Ready", a.Ready(patience(t)))
	_, err = from.OpenStream(patience(t))
	wantClosed(t, "OpenStream", err)
	_, err = from.AcceptStream(patience(t))
	wantClosed(t, "AcceptStream", err)
	wantClosed(t, "SendDatagram", from.SendDatagram([]byte("x")))
	_, err = from.ReceiveDatagram(patience(t))
	wantClosed(t, "ReceiveDatagram", err)
	wantClosed(t, "WaitDirect", waitGone(t, from))
	_, err = a.Listener().Accept()
	wantClosed(t, "Listener().Accept", err)
}

// waitGone waits until the link has ended and returns why.
func waitGone(t testing.TB, l *Link) error {
	select {
	case <-l.Context().Done():
		return l.explain(net.ErrClosed)
	case <-patience(t).Done():
		return errors.New("the link lives")
	}
}

func wantClosed(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("%s after Close: %v, want net.ErrClosed", what, err)
	}
}

// "After Close it returns net.ErrClosed", also where links were waiting.
func TestAcceptAfterCloseReturnsNoDeadLink(t *testing.T) {
	a, b := localPair(t)
	_, err := a.Dial(patience(t), b.Ticket())
	check(t, err)
	for len(b.queue) == 0 {
		b.queue <- <-b.queue // waits for the link and puts it back
	}
	b.Close()
	if l, err := b.Accept(patience(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close returned a link %v and %v", l, err)
	}
}

// Close while calls, dials and links come and go: nothing panics, hangs or stays
// behind. The race detector also looks at WaitGroups here.
func TestCloseAmidDials(t *testing.T) {
	node := nodeAt(t, localSite(), false)
	for range 10 {
		a, b := hostAt(t, localSite(), node, nil), hostAt(t, localSite(), node, nil)
		ready(t, a, b)
		var wg sync.WaitGroup
		for range 4 {
			for _, pair := range [][2]*Host{{a, b}, {b, a}} {
				wg.Go(func() {
					if l, err := pair[0].Dial(patience(t), pair[1].Ticket()); err == nil {
						l.WaitDirect(patience(t))
						pair[0].Close()
					}
				})
			}
		}
		wg.Wait()
		a.Close()
		b.Close()
	}
}

func TestConfigWithoutIdentity(t *testing.T) {
	if _, err := NewHost(Config{}); err == nil {
		t.Error("NewHost without an identity works")
	}
}

func TestDialNonsense(t *testing.T) {
	a := hostAt(t, localSite(), sallyport.NodeURL{}, func(c *Config) { c.Nodes = nil })
	for name, to := range map[string]sallyport.Ticket{
		"itself": {Peer: a.PeerID()}, "nobody": {}, "without a node": {Peer: identity(t).PeerID()},
	} {
		var failed *DialError
		if _, err := a.Dial(patience(t), to); !errors.As(err, &failed) {
			t.Errorf("dialing %s: %v, want a *DialError", name, err)
		} else if _, err := a.Dial(patience(t), to); name == "without a node" && !errors.Is(err, ErrNoNode) {
			t.Errorf("dialing %s: %v, want ErrNoNode", name, err)
		}
	}
	if err := a.Ready(patience(t)); !errors.Is(err, ErrNoNode) {
		t.Errorf("Ready without nodes: %v", err)
	}
}
