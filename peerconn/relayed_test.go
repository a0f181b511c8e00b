package peerconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// BenchmarkRelayed compares a link through a relay on this machine with a direct
// one; every byte passes the relay's process, which is this one, too:
//
//	go test -run - -bench Relayed -benchtime 2s -count 5 ./peerconn
func BenchmarkRelayed(b *testing.B) {
	b.Run("direct", func(b *testing.B) { benchTransfer(b, policyPair(PolicyAll, PathLAN)) })
	b.Run("relay", func(b *testing.B) { benchTransfer(b, policyPair(PolicyRelayOnly, PathRelay)) })
}

// policyPair is a link whose dialing side has a policy; it must go over a path
// of the kind.
func policyPair(policy Policy, kind PathKind) func(testing.TB) (from, to *quic.Conn) {
	return func(t testing.TB) (from, to *quic.Conn) {
		node := nodeAt(t, localSite(), true)
		a := hostAt(t, localSite(), node, func(c *Config) { c.Policy = policy })
		b := hostAt(t, localSite(), node, nil)
		ready(t, a, b)
		out, in := linked(t, a, b)
		if got := out.Path().Kind; got != kind {
			t.Fatalf("the path is %v, want %v", got, kind)
		}
		return out.conn, in.conn
	}
}

// "PolicyRelayOnly never shows the peer an address of this host and never sends
// to it except through a relay of this host's own."
func TestRelayOnlyShowsNoAddress(t *testing.T) {
	node := nodeAt(t, localSite(), true)
	for name, policies := range map[string][2]Policy{
		"the caller": {PolicyRelayOnly, PolicyAll}, "the callee": {PolicyAll, PolicyRelayOnly}, "both": {PolicyRelayOnly, PolicyRelayOnly},
	} {
		t.Run(name, func(t *testing.T) {
			a := hostAt(t, localSite(), node, func(c *Config) { c.Policy = policies[0] })
			b := hostAt(t, localSite(), node, func(c *Config) { c.Policy = policies[1] })
			ready(t, a, b)
			from, to := linked(t, a, b)
			roundTrip(t, from, to)
			for _, l := range []*Link{from, to} {
				other := a
				if l == from {
					other = b
				}
				if l.Path().Kind != PathRelay {
					t.Errorf("the path is %v", l.Path())
				}
				for _, p := range l.Paths() {
					if other.cfg.Policy == PolicyRelayOnly && p.Remote == other.LocalAddr() {
						t.Errorf("the peer knows %v", p.Path)
					}
				}
			}
		})
	}
}

// "PolicyDirectOnly never uses a relay: no path is better than a relayed one."
func TestDirectOnlyMeetsRelayOnly(t *testing.T) {
	node := nodeAt(t, localSite(), true)
	a := hostAt(t, localSite(), node, func(c *Config) { c.Policy, c.DialTimeout = PolicyDirectOnly, time.Second })
	b := hostAt(t, localSite(), node, func(c *Config) { c.Policy = PolicyRelayOnly })
	ready(t, a, b)
	link, err := a.Dial(patience(t), b.Ticket())
	check(t, err) // the handshake goes through the node
	var failed *DialError
	if err := link.WaitPath(patience(t)); !errors.As(err, &failed) || !errors.Is(err, ErrNoPath) {
		t.Errorf("a path: %v, %v", link.Path(), err)
	}
	if living(a.relay) != 0 {
		t.Error("it has a relay")
	}
}

// BenchmarkHandOver measures the longest time in which nothing arrives when the
// path of a link under load changes, direct to relay and back:
//
//	go test -run - -bench HandOver -benchtime 20x ./peerconn
func BenchmarkHandOver(b *testing.B) {
	node := nodeAt(b, localSite(), true)
	ha, hb := hostAt(b, localSite(), node, nil), hostAt(b, localSite(), node, nil)
	ready(b, ha, hb)
	from, to := linked(b, ha, hb)
	relayed, direct := bothPaths(b, from)
	out, err := from.OpenStream(patience(b))
	check(b, err)
	_, err = out.Write([]byte{0})
	check(b, err)
	in, err := to.AcceptStream(patience(b))
	check(b, err)
	ctx, stop := context.WithCancel(context.Background())
	defer from.Close()
	defer stop()
	go func() { // ends with the link
		for buf := make([]byte, 1<<16); ctx.Err() == nil; {
			if _, err := out.Write(buf); err != nil {
				return
			}
		}
	}()
	var longest, sum time.Duration
	for i := range b.N {
		to := []*target{relayed, direct}[i%2]
		from.r.target.Store(to)
		gap := longestGap(b, in, 30*time.Millisecond)
		longest, sum = max(longest, gap), sum+gap
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest-gap")
	b.ReportMetric(float64(sum.Microseconds())/1000/float64(b.N), "ms-mean-gap")
}

// longestGap reads for a while and returns the longest wait in a read.
func longestGap(b *testing.B, in io.Reader, d time.Duration) (longest time.Duration) {
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(d); time.Now().Before(end); {
		start := time.Now()
		_, err := in.Read(buf)
		check(b, err)
		longest = max(longest, time.Since(start))
	}
	return longest
}

// bothPaths waits until a link has a relayed and a direct path.
func bothPaths(t testing.TB, l *Link) (relayed, direct *target) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		l.r.mu.Lock()
		for _, s := range l.r.session.Paths() {
			switch to := l.r.targetOf(s); {
			case !usable(s):
			case to != nil && to.relay != nil:
				relayed = to
			default:
				direct = to
			}
		}
		l.r.mu.Unlock()
		if relayed != nil && direct != nil {
			return relayed, direct
		}
	}
	t.Fatal(fmt.Sprint("no two paths: ", l.Paths()))
	return nil, nil
}
