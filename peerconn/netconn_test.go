package peerconn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// connPair is a stream of a link as a net.Conn at both ends. The accepting side
// learns of a stream by its first byte, so one is sent here and read there.
func connPair(t testing.TB, from *Link, accept net.Listener) (out, in net.Conn) {
	t.Helper()
	out, err := from.DialConn(patience(t))
	check(t, err)
	_, err = out.Write([]byte{0})
	check(t, err)
	in, err = accept.Accept()
	check(t, err)
	_, err = io.ReadFull(in, make([]byte, 1))
	check(t, err)
	return out, in
}

// A stream behaves as package net says that a Conn does.
func TestConn(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	ln := to.Listener()
	for name, swap := range map[string]bool{"dialed first": false, "accepted first": true} {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = connPair(t, from, ln)
				if swap {
					c1, c2 = c2, c1
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// "Close closes the connection. Any blocked Read or Write operations will be
// unblocked and return errors." (package net)
func TestConnCloseUnblocks(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	out, in := connPair(t, from, to.Listener())
	defer in.Close()
	for { // nobody reads: fill the flow control window
		check(t, out.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		if _, err := out.Write(make([]byte, 1<<16)); err != nil {
			break
		}
	}
	check(t, out.SetWriteDeadline(time.Time{}))
	var blocked sync.WaitGroup
	for what, f := range map[string]func([]byte) (int, error){"Read": out.Read, "Write": out.Write} {
		blocked.Go(func() {
			if _, err := f(make([]byte, 1<<16)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a blocked %s returned %v", what, err)
			}
		})
	}
	check(t, out.Close())
	done := make(chan struct{})
	go func() {
		blocked.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("Close leaves a Read or Write blocked")
		from.Close()
		<-done
	}
	if _, err := out.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close: %v, want net.ErrClosed", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v, want net.ErrClosed", err)
	}
}

// What was written before Close arrives, then EOF; CloseWrite leaves the other
// direction open.
func TestConnHalfClose(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	out, in := connPair(t, from, to.Listener())
	_, err := out.Write([]byte("question"))
	check(t, err)
	check(t, out.(interface{ CloseWrite() error }).CloseWrite())
	if got, err := io.ReadAll(in); string(got) != "question" || err != nil {
		t.Errorf("arrived: %q, %v", got, err)
	}
	_, err = in.Write([]byte("answer"))
	check(t, err)
	check(t, in.Close())
	if got, err := io.ReadAll(out); string(got) != "answer" || err != nil {
		t.Errorf("arrived: %q, %v", got, err)
	}
	check(t, out.Close())
	check(t, out.Close())
}

func TestConnAddresses(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	out, in := connPair(t, from, to.Listener())
	defer out.Close()
	defer in.Close()
	for what, got := range map[string][2]net.Addr{
		"dialer":   {out.LocalAddr(), Addr{a.PeerID()}},
		"its peer": {out.RemoteAddr(), Addr{b.PeerID()}},
		"acceptor": {in.LocalAddr(), Addr{b.PeerID()}},
		"caller":   {in.RemoteAddr(), Addr{a.PeerID()}},
		"listener": {to.Listener().Addr(), Addr{b.PeerID()}},
		"host":     {b.Listener().Addr(), Addr{b.PeerID()}},
	} {
		if got[0] != got[1] || got[0].Network() != "sally" || got[0].String() != got[1].String() {
			t.Errorf("%s: %v, want %v", what, got[0], got[1])
		}
	}
}

func TestListenerClose(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	ln := to.Listener()
	accepted := make(chan error)
	go func() {
		_, err := ln.Accept()
		accepted <- err
	}()
	check(t, ln.Close())
	check(t, ln.Close())
	wantClosed(t, "a blocked Accept", <-accepted)
	_, err := ln.Accept()
	wantClosed(t, "Accept", err)
	roundTrip(t, from, to) // "closing it leaves the link open"

	again := to.Listener()
	check(t, from.CloseWithReason("enough"))
	_, err = again.Accept()
	var closed *ClosedError
	if !errors.As(err, &closed) || closed.Reason != "enough" || !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a link that the peer closed: %v", err)
	}
}

// "Closing it closes the links it accepted", and no others.
func TestHostListenerClose(t *testing.T) {
	a, b := localPair(t)
	ln := b.Listener()
	served := make(chan error)
	go func() { served <- http.Serve(ln, http.NotFoundHandler()) }()
	link, err := a.Dial(patience(t), b.Ticket())
	check(t, err)
	c, err := link.DialConn(patience(t))
	check(t, err)
	_, err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	check(t, err)
	if answer, err := io.ReadAll(c); err != nil || len(answer) == 0 {
		t.Errorf("answer %q, %v", answer, err)
	}
	check(t, ln.Close())
	wantClosed(t, "Serve", <-served)
	wantClosed(t, "the link it accepted", waitGone(t, link))

	other, err := a.Dial(patience(t), b.Ticket())
	check(t, err)
	end, err := b.Accept(patience(t))
	check(t, err)
	roundTrip(t, other, end)
}

// A link that ends gives its reason to everything that waits on it.
func TestLinkEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(*Link) error
		is   error
		text string
	}{
		"closed with a reason": {func(l *Link) error { return l.CloseWithReason("enough") }, net.ErrClosed, `the peer closed the link: "enough"`},
		"closed":               {(*Link).Close, net.ErrClosed, "the peer closed the link"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := localPair(t)
			from, to := linked(t, a, b)
			stream, err := to.OpenStream(patience(t))
			check(t, err)
			waiting := make(chan error)
			for _, wait := range []func() error{
				func() error { _, err := to.AcceptStream(context.Background()); return err },
				func() error { _, err := to.ReceiveDatagram(context.Background()); return err },
				func() error { return to.wait(context.Background(), func(Path) bool { return false }) },
			} {
				go func() { waiting <- wait() }()
			}
			check(t, test.end(from))
			for range 3 {
				if err := <-waiting; !errors.Is(err, test.is) || err.Error() != test.text {
					t.Errorf("%v, want %v", err, test.text)
				}
			}
			if cause := context.Cause(to.Context()); cause.Error() != test.text {
				t.Errorf("the cause is %v", cause)
			}
			wantClosed(t, "our own end", context.Cause(from.Context()))
			if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read of a stream: %v", err)
			}
			check(t, from.Close())
			check(t, to.Close())
		})
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	a, b := localPair(t)
	from, to := linked(t, a, b)
	out, in := connPair(t, from, to.Listener())
	defer out.Close()
	defer in.Close()
	check(t, out.SetReadDeadline(time.Unix(1, 0)))
	var timeout net.Error
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Read after the deadline: %v", err)
	}
}
