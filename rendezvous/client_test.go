package rendezvous

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"go.uber.org/goleak"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBackoffGrowsAndStaysBelowItsBounds(t *testing.T) {
	var b backoff
	lost := errors.New("lost")
	want := backoffMin
	for i := range 20 {
		got := b.next(lost, false, 0)
		if got < want/2 || got > want {
			t.Errorf("attempt %d waits %v, want %v to %v", i, got, want/2, want)
		}
		want = min(2*want, backoffMax)
	}
	if got := b.next(lost, true, time.Minute); got > backoffMin {
		t.Errorf("after a good session: %v", got)
	}
	if got := b.next(&NodeError{Err: errRestarted}, true, time.Minute); got != 0 {
		t.Errorf("after a restart of the node: %v, want at once", got)
	}
	if got := b.next(&NodeError{Err: errRestarted}, true, 0); got == 0 {
		t.Error("a node that restarts without end is tried without a pause")
	}
	if got := b.next(&NodeError{Err: ErrTakenOver}, true, time.Minute); got < takenMin/2 {
		t.Errorf("after another program took over: %v", got)
	}
	if got := b.next(&NodeError{Err: ErrLimited}, true, time.Minute); got < limitedWait/2 {
		t.Errorf("after being limited: %v", got)
	}
}

// net.ErrClosed means that the client was closed; QUIC's errors say it of
// every lost connection.
func TestNodeErrorsAreNotErrClosed(t *testing.T) {
	c := &Client{cfg: Config{Node: sallyport.NodeURL{Host: "node.example", Port: 3478}}}
	for _, tt := range []struct {
		err  error
		want error
		text string
	}{
		{&quic.StatelessResetError{}, errRestarted, "node node.example:3478: node restarted"},
		{&quic.IdleTimeoutError{}, errSilent, "does not answer"},
		{&quic.HandshakeTimeoutError{}, errSilent, "does not answer"},
		{&quic.TransportError{ErrorCode: quic.ConnectionRefused}, nil, "CONNECTION_REFUSED"},
		{&quic.ApplicationError{Remote: true, ErrorCode: wire.CodeTakenOver}, ErrTakenOver, "same key"},
		{&quic.ApplicationError{Remote: true, ErrorCode: wire.CodeTaken}, ErrTakenOver, "same key"},
		{&quic.ApplicationError{Remote: true, ErrorCode: wire.CodeLimited}, ErrLimited, "closed the connection"},
		{&quic.ApplicationError{Remote: true, ErrorCode: wire.CodeLeaving}, errLeaving, "shutting down"},
		{&quic.ApplicationError{ErrorCode: wire.CodeGone}, errSilent, "does not answer"},
		{&quic.ApplicationError{Remote: true, ErrorCode: 99}, nil, "code 99"},
		{io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, "unexpected EOF"},
	} {
		err := c.nodeError(tt.err)
		if errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), tt.text) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%T %v becomes %v", tt.err, tt.err, err)
		}
	}
}

func TestEndCauses(t *testing.T) {
	for code, want := range map[uint8]error{
		wire.EndOffline: ErrOffline, wire.EndRefused: ErrRefused, wire.EndLimited: ErrLimited,
		wire.EndBudget: ErrBudget, wire.EndExpired: ErrExpired, wire.EndTooLarge: ErrTooLarge,
	} {
		if err := endCause(wire.End{Code: code, Reason: "because"}); !errors.Is(err, want) {
			t.Errorf("%d: %v", code, err)
		}
	}
	if err := endCause(wire.End{Code: wire.EndNode, Reason: "on fire"}); !strings.Contains(err.Error(), "on fire") {
		t.Errorf("%v", err)
	}
	if err := error(&RefusedError{Reason: "a\x1b[31m"}); strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a reason reaches the terminal as it is: %q", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	id, err := sallyport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	good := func() Config {
		return Config{Identity: id, Node: sallyport.NodeURL{ID: id.PeerID(), Host: "h", Port: 1}, Volunteer: &Volunteer{
			Secret: make([]byte, 16), Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1")}}}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"identity": func(c *Config) { c.Identity = nil },
		"node":     func(c *Config) { c.Node = sallyport.NodeURL{} },
		"secret":   func(c *Config) { c.Volunteer.Secret = nil },
		"long":     func(c *Config) { c.Volunteer.Secret = make([]byte, 65) },
		"address":  func(c *Config) { c.Volunteer.Addrs = nil },
		"name":     func(c *Config) { c.Volunteer.Name = strings.Repeat("n", 33) },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("without a good %s, New succeeds", name)
		}
	}
}

func TestCloseWithoutRun(t *testing.T) {
	id, _ := sallyport.NewIdentity()
	c, err := New(Config{Identity: id, Node: sallyport.NodeURL{ID: id.PeerID(), Host: "h", Port: 1}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := c.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
}

// Addresses are tried one after the other, 250 ms apart, and all errors told.
func TestRaceOfAddresses(t *testing.T) {
	addrs := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1"), netip.MustParseAddrPort("192.0.2.3:1")}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		winner := &quic.Conn{}
		conn, err := race(t.Context(), addrs, func(ctx context.Context, to netip.AddrPort) (*quic.Conn, error) {
			if to == addrs[1] {
				return winner, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if conn != winner || err != nil || time.Since(began) != stagger {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		_, err = race(t.Context(), addrs, func(_ context.Context, to netip.AddrPort) (*quic.Conn, error) {
			return nil, errors.New("no route to " + to.String())
		})
		for _, a := range addrs {
			if err == nil || !strings.Contains(err.Error(), a.String()) {
				t.Errorf("%v does not tell of %v", err, a)
			}
		}
	})
}

func TestResolveAlternatesFamilies(t *testing.T) {
	for hostport, want := range map[string]string{"192.0.2.1:7": "192.0.2.1:7", "[2001:db8::1]:7": "[2001:db8::1]:7"} {
		got, err := resolve(t.Context(), hostport)
		if err != nil || len(got) != 1 || got[0].String() != want {
			t.Errorf("%s: %v, %v", hostport, got, err)
		}
	}
	for _, bad := range []string{"", "host", "192.0.2.1:x", "192.0.2.1:70000"} {
		if got, err := resolve(t.Context(), bad); err == nil {
			t.Errorf("%q resolves to %v", bad, got)
		}
	}
}

func TestAddressesAtTheNode(t *testing.T) {
	node := netip.MustParseAddr("203.0.113.1")
	got := atNode([]netip.AddrPort{
		netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("[::]:1"), netip.MustParseAddrPort("192.0.2.1:2"),
	}, node)
	if len(got) != 2 || got[0] != netip.AddrPortFrom(node, 1) || got[1].String() != "192.0.2.1:2" {
		t.Errorf("%v", got)
	}
}
