package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// mint is a credential that shows what went into it.
func mint(secret []byte, user string, expires time.Time) (username, password string) {
	return fmt.Sprintf("%d:%s", expires.Unix(), user), string(secret)
}

// prober stands for what tries relays from outside.
type prober struct {
	mu     sync.Mutex
	fail   error
	probed []rendezvous.Relay
}

func (p *prober) probe(_ context.Context, r rendezvous.Relay) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probed = append(p.probed, r)
	return p.fail
}

func (p *prober) set(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

var secret = []byte("0123456789abcdef")

func volunteers(name string, addrs ...string) func(*rendezvous.Config) {
	return func(cfg *rendezvous.Config) {
		cfg.Volunteer = &rendezvous.Volunteer{Name: name, Realm: "realm", Secret: secret}
		for _, a := range addrs {
			cfg.Volunteer.Addrs = append(cfg.Volunteer.Addrs, netip.MustParseAddrPort(a))
		}
	}
}

func (p *peer) wantListed(addrs int, reason, why string) {
	p.w.t.Helper()
	select {
	case s := <-p.lists:
		if len(s.Addrs) != addrs || !strings.Contains(s.Reason, reason) {
			p.w.t.Fatalf("%s: %+v, want %d addresses and %q", why, s, addrs, reason)
		}
	case <-time.After(10 * time.Minute):
		p.w.t.Fatalf("%s: the volunteer is not told", why)
	}
}

func (p *peer) relays() []rendezvous.Relay {
	p.w.t.Helper()
	list, err := p.Relays(p.ctx())
	if err != nil {
		p.w.t.Fatal(err)
	}
	return list
}

func TestVolunteerIsListedWhileItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outside := &prober{fail: errors.New("no answer")}
		w := newWorld(t, Config{Mint: mint, ProbeRelay: outside.probe})
		alice := w.peer("alice")
		alice.wantReady("alice registers")
		relay := w.peer("relay", volunteers("friend", "0.0.0.0:3478"))
		relay.wantListed(0, "no answer", "the relay cannot be reached")
		if list := alice.relays(); len(list) != 0 {
			t.Fatalf("a relay that was not proven is handed out: %+v", list)
		}
		outside.set(nil)
		relay.wantListed(1, "", "it works now")
		list := alice.relays()
		if len(list) != 1 {
			t.Fatalf("%d relays", len(list))
		}
		at := netip.AddrPortFrom(relay.conn.addr.Addr(), 3478)
		r := list[0]
		if r.ID != relay.id || r.Name != "friend" || r.Realm != "realm" || !slices.Equal(r.Addrs, []netip.AddrPort{at}) {
			t.Errorf("%+v, want the address that the node saw, %v", r, at)
		}
		if left := time.Until(r.Expires); left < 9*time.Minute || left > 10*time.Minute {
			t.Errorf("expires in %v", left)
		}
		if want := ":" + alice.id.String(); !strings.HasSuffix(r.Username, want) || r.Password != string(secret) {
			t.Errorf("credential %q %q is not minted for alice", r.Username, r.Password)
		}
		if len(relay.relays()) != 0 {
			t.Error("a volunteer is given its own relay")
		}
		outside.set(errors.New("gone"))
		relay.wantListed(0, "gone", "it does not work any more")
		if len(alice.relays()) != 0 {
			t.Error("it is still handed out")
		}
		outside.set(nil)
		relay.wantListed(1, "", "it came back")
		relay.quit()
		time.Sleep(time.Second)
		if len(alice.relays()) != 0 || w.node.Stats().VolunteersNow != 0 {
			t.Error("a relay is handed out after its peer left")
		}
	})
}

// One lost probe of a relay that worked is not told to anybody.
func TestVolunteerSurvivesOneLostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outside := &prober{}
		w := newWorld(t, Config{Mint: mint, ProbeRelay: outside.probe})
		relay := w.peer("relay", volunteers("friend", "0.0.0.0:3478"))
		relay.wantListed(1, "", "it works")
		outside.set(errors.New("lost"))
		time.Sleep(probeEvery + time.Second)
		outside.set(nil)
		time.Sleep(3 * probeEvery)
		if len(relay.lists) != 0 || w.node.Stats().VolunteersNow != 1 {
			t.Errorf("told %d times, %+v", len(relay.lists), w.node.Stats())
		}
	})
}

// A volunteer cannot have the node knock at inner or impossible addresses; its
// own, as the node sees it, is always fine.
func TestVolunteerAddresses(t *testing.T) {
	seen := netip.MustParseAddr("10.1.2.3")
	for addr, ok := range map[string]bool{
		"10.1.2.3:3478": true, "10.1.2.4:3478": false, "127.0.0.1:3478": false, "192.168.1.1:3478": false,
		"169.254.169.254:80": false, "224.0.0.1:3478": false, "255.255.255.255:1": false, "10.1.2.3:0": false,
		"8.8.8.8:3478": true, "[2a00:1450::1]:3478": true, "[fe80::1]:3478": false, "[fc00::1]:3478": false, "[::1]:3478": false,
		"[64:ff9b::a00:1]:3478": false, "[2002:a00:1::]:3478": false, "100.64.0.1:3478": false, "0.1.2.3:9": false,
	} {
		if err := allowed(netip.MustParseAddrPort(addr), seen); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// Expiry is in the volunteer's clock, which may be a day off.
func TestVolunteerClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outside := &prober{}
		w := newWorld(t, Config{Mint: mint, ProbeRelay: outside.probe})
		alice := w.peer("alice")
		alice.wantReady("alice registers")
		raw := w.rawPeer("relay")
		defer raw.close()
		skew := 26 * time.Hour
		stream := raw.open(wire.Hello{Time: time.Now().Add(skew), Volunteer: &wire.Volunteer{
			Name: "late", Secret: secret, Addrs: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:3478")}}}.Append(nil))
		raw.want(stream, wire.TypeWelcome)
		raw.want(stream, wire.TypeListed)
		r := alice.relays()[0]
		var unix int64
		fmt.Sscanf(r.Username, "%d:", &unix)
		if ahead := time.Unix(unix, 0).Sub(time.Now().Add(skew)); ahead < 9*time.Minute || ahead > 11*time.Minute {
			t.Errorf("expires %v after now in the relay's clock, want 10 minutes", ahead)
		}
		if left := time.Until(r.Expires); left < 9*time.Minute || left > 10*time.Minute {
			t.Errorf("expires in %v in alice's clock", left)
		}
	})
}

func TestOwnRelaysComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		current := []byte("secret of today!")
		own := StaticRelay{Name: "node", Addrs: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:3478")}, Secret: func() []byte { return current }}
		w := newWorld(t, Config{Mint: mint, ProbeRelay: (&prober{}).probe, Relays: []StaticRelay{own}})
		alice := w.peer("alice")
		alice.wantReady("alice registers")
		for i := range 6 {
			w.peer(fmt.Sprint("relay", i), volunteers(fmt.Sprint("v", i), "0.0.0.0:3478")).wantListed(1, "", "it works")
		}
		list := alice.relays()
		if len(list) != maxHandedOut || list[0].Name != "node" || list[0].Password != string(current) {
			t.Fatalf("%+v", list)
		}
		if list[0].Addrs[0] != netip.AddrPortFrom(w.addr.Addr(), 3478) {
			t.Errorf("the node's own relay is at %v", list[0].Addrs)
		}
		if again := alice.relays(); again[1].ID != list[1].ID || again[3].ID != list[3].ID {
			t.Error("a peer is given other volunteers each time")
		}
	})
}

// Each volunteer gets its share of peers.
func TestVolunteersAreSpread(t *testing.T) {
	l := newRelayList(&Server{limits: newLimiters(Limits{})})
	const n = 20
	for i := range n {
		l.listed[&session{}] = volunteer{id: sallyport.PeerID{0: byte(i), 1: 1}}
	}
	first := make(map[sallyport.PeerID]int)
	for i := range 4000 {
		first[l.spread(sallyport.PeerID{0: byte(i), 1: byte(i >> 8)})[0].id]++
	}
	for id, share := range first {
		if share < 100 || share > 320 { // 200 ± 8.7 standard deviations
			t.Errorf("volunteer %d is first for %d of 4000", id[0], share)
		}
	}
	if len(first) != n {
		t.Errorf("%d of %d volunteers are ever first", len(first), n)
	}
}

func TestNoVolunteersWithoutAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Mint: mint})
		relay := w.peer("relay", volunteers("friend", "0.0.0.0:3478"))
		relay.wantListed(0, "volunteers", "nobody can try it")
	})
}

// One network cannot take the places of everybody's relays, and gets its own back.
func TestVolunteersOfOneNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Mint: mint, ProbeRelay: new(prober).probe})
		var first *peer
		for i := range maxNeighbours {
			p := w.peer(fmt.Sprint("volunteer", i), volunteers("v", "0.0.0.0:3478"))
			p.wantListed(1, "", "within the bound")
			if i == 0 {
				first = p
			}
		}
		w.peer("beyond", volunteers("v", "0.0.0.0:3478")).wantListed(0, "enough volunteers", "beyond the bound")
		first.quit()
		time.Sleep(time.Minute)
		w.peer("later", volunteers("v", "0.0.0.0:3478")).wantListed(1, "", "after one left")
	})
}
