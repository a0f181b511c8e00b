package peerconn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/rendezvous"
)

func TestRelayName(t *testing.T) {
	long := strings.Repeat("x", holepunch.MaxVia)
	for name, want := range map[string]string{
		"eu1": "eu1", "": "relay", "two words": "two words",
		"\x1b[31mred\n": "?[31mred?", "ünï": "?n?", long + "y": long, strings.Repeat("é", 40): strings.Repeat("?", holepunch.MaxVia),
	} {
		if got := relayName(name); got != want {
			t.Errorf("%q becomes %q, want %q", name, got, want)
		}
	}
}

// offers returns the relays that the host's node has for it.
func offers(t *testing.T, h *Host) []rendezvous.Relay {
	t.Helper()
	at, _ := h.nodes.firstReady(patience(t), h.cfg.Nodes)
	offered, err := at.client.Relays(patience(t))
	check(t, err)
	if len(offered) == 0 {
		t.Fatal("the node offers no relay")
	}
	return offered
}

func living(m *relays) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.allocs {
		if a.Err() == nil {
			n++
		}
	}
	return n
}

// One socket can have one allocation at a server (RFC 8656 section 5): all who want
// one at the same time share it.
func TestAllocationsAreShared(t *testing.T) {
	h := hostAt(t, localSite(), nodeAt(t, localSite(), true), nil)
	ready(t, h)
	offer := offers(t, h)[0]
	var got [16]*allocation
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			a, err := h.relay.allocateAt(patience(t), offer, offer.Addrs[0], 4)
			if err != nil {
				t.Error(err)
			}
			got[i] = a
		})
	}
	wg.Wait()
	for _, a := range got {
		if a != got[0] {
			t.Error("two allocations at one server")
		}
	}
	if n := living(h.relay); n != 1 || len(h.relay.pending) != 0 {
		t.Errorf("%d allocations, %d pending", n, len(h.relay.pending))
	}
}

// A relay that refuses leaves nothing behind, and the next one may try at once.
func TestFailedAllocationLeavesNothing(t *testing.T) {
	h := hostAt(t, localSite(), nodeAt(t, localSite(), true), nil)
	ready(t, h)
	offer := offers(t, h)[0]
	forged := offer
	forged.Password = "guessed"
	var wg sync.WaitGroup
	for range maxAllocations + 2 {
		wg.Go(func() {
			if _, err := h.relay.allocateAt(patience(t), forged, offer.Addrs[0], 4); err == nil {
				t.Error("allocated with a wrong password")
			}
		})
	}
	wg.Wait()
	h.relay.mu.Lock()
	if len(h.relay.taken)+len(h.relay.pending)+len(h.relay.inbound)+len(h.relay.allocs) != 0 {
		t.Errorf("left behind: %v, %v, %d inbound, %d allocations", h.relay.taken, h.relay.pending, len(h.relay.inbound), len(h.relay.allocs))
	}
	h.relay.mu.Unlock()
	if _, err := h.relay.allocateAt(patience(t), offer, offer.Addrs[0], 4); err != nil {
		t.Error(err)
	}
	if _, err := h.relay.allocate(patience(t), rendezvous.Relay{Name: "empty"}, h.relay.use(testRoute(t, h.sock))); err == nil {
		t.Error("allocated at a relay without an address")
	}
}

// Who waits for another's allocation gives up with its own context.
func TestWaitingForAnAllocationEnds(t *testing.T) {
	h := hostAt(t, localSite(), sallyport.NodeURL{}, func(c *Config) { c.Nodes = nil })
	server := addr("192.0.2.1:3478")
	h.relay.mu.Lock()
	h.relay.pending[server] = make(chan struct{})
	h.relay.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.relay.allocateAt(ctx, rendezvous.Relay{}, server, 4); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	h.relay.decided(server)
}

// An allocation lives as long as a route uses it and five minutes more; then it is
// given back.
func TestIdleAllocationIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := natlab.New(natlab.Config{Link: natlab.LinkConfig{Latency: ms}})
		node := nodeAt(t, labSite(in.Host("node", natlab.HostConfig{})), true)
		a := hostAt(t, labSite(in.Host("a", natlab.HostConfig{})), node, nil)
		b := hostAt(t, labSite(in.Host("b", natlab.HostConfig{})), node, nil)
		ready(t, a, b)
		from, _ := linked(t, a, b)
		time.Sleep(2 * relayIdle)
		if living(a.relay) != 1 {
			t.Fatalf("%d allocations while a link lives, want 1", living(a.relay))
		}
		from.Close()
		time.Sleep(relayIdle - time.Second)
		if living(a.relay) != 1 {
			t.Error("given back early")
		}
		time.Sleep(time.Minute)
		if living(a.relay) != 0 || len(a.relay.taken) != 0 {
			t.Errorf("%d allocations are left, bases %v", living(a.relay), a.relay.taken)
		}
		if _, err := a.Dial(patience(t), b.Ticket()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if living(a.relay) != 1 {
			t.Error("the next link has no relay")
		}
		a.Close()
		b.Close()
		in.Close()
	})
}

func TestAllocatingAfterCloseIsRefused(t *testing.T) {
	h := hostAt(t, localSite(), nodeAt(t, localSite(), true), nil)
	ready(t, h)
	offer := offers(t, h)[0]
	h.relay.close()
	if _, err := h.relay.allocateAt(patience(t), offer, offer.Addrs[0], 4); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
	h.Close()
	if n := living(h.relay); n != 0 {
		t.Errorf("%d allocations live", n)
	}
}

// The relay's address family follows the peer: a route to a peer with IPv4 alone
// needs an IPv4 address at an IPv6 relay.
func TestRelayFamily(t *testing.T) {
	v4, v6 := holepunch.Candidate{Addr: addr("192.0.2.1:4000")}, holepunch.Candidate{Addr: addr("[2001:db8::1]:4000")}
	at4, at6 := addr("192.0.2.9:3478"), addr("[2001:db8::9]:3478")
	for name, test := range map[string]struct {
		peer   []holepunch.Candidate
		server netip.AddrPort
		want   int
	}{
		"not known yet, at IPv4": {nil, at4, 4},
		"not known yet, at IPv6": {nil, at6, 6},
		"both, at IPv4":          {[]holepunch.Candidate{v4, v6}, at4, 4},
		"both, at IPv6":          {[]holepunch.Candidate{v4, v6}, at6, 6},
		"IPv4 alone, at IPv6":    {[]holepunch.Candidate{v4}, at6, 4},
		"IPv6 alone, at IPv4":    {[]holepunch.Candidate{v6}, at4, 6},
	} {
		u := &relayUse{relays: newRelays(nil)}
		u.meet(test.peer)
		if got := u.family(test.server); got != test.want {
			t.Errorf("%s: IPv%d, want IPv%d", name, got, test.want)
		}
	}
}
