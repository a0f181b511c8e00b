package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// matrixKinds are the sites of the matrix, each against each.
var matrixKinds = []natlab.SiteKind{
	natlab.SiteNone,
	natlab.SiteFullCone,
	natlab.SiteRestrictedCone,
	natlab.SitePortRestricted,
	natlab.SiteLinux,
	natlab.SiteCarrier,
	natlab.SiteSymmetric,
	natlab.SiteUDPBlocked,
}

// expected says which kind of path a pair must reach, and the physical reason
// where that is not direct.
func expected(a, b natlab.SiteKind) (kind peerconn.PathKind, reason string) {
	filtersPorts := func(k natlab.SiteKind) bool {
		switch k {
		case natlab.SitePortRestricted, natlab.SiteLinux, natlab.SiteCarrier, natlab.SiteSymmetric:
			return true
		}
		return false
	}
	switch {
	case a == natlab.SiteUDPBlocked || b == natlab.SiteUDPBlocked:
		return peerconn.PathNone, "UDP is blocked"
	case a == natlab.SiteSymmetric && filtersPorts(b), b == natlab.SiteSymmetric && filtersPorts(a):
		return peerconn.PathRelay, "one side's port towards the other is random and the other side filters by port"
	}
	return peerconn.PathDirect, ""
}

// TestMatrix: "Direct in every cell, except where a side with address-and-port-
// dependent mapping faces one that filters by address and port and where UDP is
// blocked; linked in every cell that lets UDP out of both sides", at the first try.
func TestMatrix(t *testing.T) {
	for _, a := range matrixKinds {
		for _, b := range matrixKinds {
			t.Run(fmt.Sprintf("%s_x_%s", a, b), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runCell(t, a, b) })
			})
		}
	}
}

func runCell(t *testing.T, a, b natlab.SiteKind) {
	want, reason := expected(a, b)
	l := newLab(t, natlab.Config{})
	l.startNode(true)
	left, right := l.site(a, "left"), l.site(b, "right")
	if want == peerconn.PathNone {
		wantUnreachable(t, left, right, a == natlab.SiteUDPBlocked)
		return
	}
	l.ready(left, right)
	go echo(right)
	start := time.Now()
	link, err := left.Dial(t.Context(), right.Ticket())
	check(t, err)
	check(t, ask(t, link))
	first := time.Since(start)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if want == peerconn.PathDirect {
		if err := link.WaitDirect(ctx); err != nil {
			t.Fatalf("not direct: %v\n%s", err, tried(link))
		}
		t.Logf("first byte %v, direct %v", first, time.Since(start))
	} else {
		check(t, link.WaitPath(ctx))
		time.Sleep(5 * time.Second)
		if got := link.Path().Kind; got != want {
			t.Errorf("path is %v, want %v (%s)\n%s", got, want, reason, tried(link))
		}
	}
	check(t, ask(t, link))
}

// wantUnreachable: the side without UDP cannot register and says so; dialing it
// says that it is offline.
func wantUnreachable(t *testing.T, left, right *peerconn.Host, leftBlocked bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := left.Dial(ctx, right.Ticket())
	var failed *peerconn.DialError
	if !errors.As(err, &failed) || len(failed.Attempts) == 0 {
		t.Fatalf("dialing without UDP: %v, want a DialError that says what was tried", err)
	}
	want := peerconn.ErrOffline
	if leftBlocked {
		want = peerconn.ErrNoNode
	}
	if !errors.Is(err, want) {
		t.Errorf("dialing without UDP: %v, want %v", err, want)
	}
}

func tried(l *peerconn.Link) (s string) {
	for _, p := range l.Paths() {
		s += fmt.Sprintf("  %-10v %v  %s\n", p.State, p.Path, p.Why)
	}
	return s
}
