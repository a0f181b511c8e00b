package natlab_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

func TestFirewall(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	pkt := func(src, dst string) natlab.Packet { return natlab.Packet{Src: ap(src), Dst: ap(dst)} }
	for _, fam := range [][3]string{
		{"[2a00::1]:1000", "[2a00::2]:53", "[2a00::2]:54"},
		{"20.0.0.1:1000", "20.0.0.2:53", "20.0.0.2:54"},
	} {
		inside, known, stranger := fam[0], fam[1], fam[2]
		for _, c := range []struct {
			name                    string
			cfg                     natlab.FirewallConfig
			out, outOther           error
			answer, unsolicited, ex error
		}{
			{"open", natlab.FirewallConfig{}, nil, nil, nil, nil, nil},
			{"stateful", natlab.FirewallConfig{Mode: natlab.FirewallStateful}, nil, nil, nil, natlab.ErrFiltered, natlab.ErrFiltered},
			{"blocked", natlab.FirewallConfig{Mode: natlab.FirewallUDPBlocked}, natlab.ErrBlocked, natlab.ErrBlocked, natlab.ErrBlocked, natlab.ErrBlocked, natlab.ErrBlocked},
			{"blocked but 53", natlab.FirewallConfig{Mode: natlab.FirewallUDPBlocked, AllowPorts: []uint16{53}}, nil, natlab.ErrBlocked, nil, natlab.ErrBlocked, natlab.ErrBlocked},
		} {
			f, err := natlab.NewFirewall(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			want := func(got, want error, what string) {
				t.Helper()
				if !errors.Is(got, want) || got != nil && want == nil {
					t.Errorf("%s, %s: %v, want %v", c.name, what, got, want)
				}
			}
			want(f.Inbound(now, pkt(stranger, inside)), c.unsolicited, "unsolicited")
			want(f.Outbound(now, pkt(inside, known)), c.out, "out")
			want(f.Inbound(now.Add(119*time.Second), pkt(known, inside)), c.answer, "answer")
			want(f.Inbound(now.Add(200*time.Second), pkt(known, inside)), c.answer, "refreshed by the answer")
			want(f.Inbound(now, pkt(stranger, inside)), c.unsolicited, "other port")
			want(f.Inbound(now.Add(time.Hour), pkt(known, inside)), c.ex, "expired")
			if c.name == "blocked but 53" {
				want(f.Outbound(now, pkt(inside, stranger)), c.outOther, "out to another port")
			}
		}
	}
}

func TestFirewallIsBounded(t *testing.T) {
	f, err := natlab.NewFirewall(natlab.FirewallConfig{Mode: natlab.FirewallStateful, MaxSessions: 2})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	out := func(dst string) error {
		return f.Outbound(now, natlab.Packet{Src: ap("10.0.0.1:1"), Dst: ap(dst)})
	}
	if err := errors.Join(out("9.0.0.1:1"), out("9.0.0.2:1"), out("9.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	if err := out("9.0.0.3:1"); !errors.Is(err, natlab.ErrExhausted) {
		t.Errorf("third flow of two: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if err := out("9.0.0.3:1"); err != nil {
		t.Errorf("after expiry: %v", err)
	}
	if _, err := natlab.NewFirewall(natlab.FirewallConfig{Mode: 9}); !errors.Is(err, natlab.ErrConfig) {
		t.Errorf("mode 9: %v", err)
	}
}
