package e2e

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// mallory is a peer with a raw rendezvous client: it may call, and says what it
// likes.
type mallory struct {
	id     *sallyport.Identity
	host   *natlab.Host
	client *rendezvous.Client
}

func (l *lab) mallory(name string, onCall func(*rendezvous.Call)) *mallory {
	l.t.Helper()
	m := &mallory{id: newIdentity(l.t)}
	m.client = l.rawClient(name, func(c *rendezvous.Config) { c.Identity, c.OnCall = m.id, onCall })
	_, err := m.client.Ready(l.t.Context())
	check(l.t, err)
	return m
}

// offer seals an honest offer to a peer with these candidates.
func (m *mallory) offer(t *testing.T, to sallyport.PeerID, cands ...holepunch.Candidate) []byte {
	t.Helper()
	o := holepunch.NewOffer(time.Now(), m.id.PeerID(), to)
	o.Candidates = cands
	sealed, err := holepunch.SealOffer(m.id, o)
	check(t, err)
	return sealed
}

// says calls and returns the end of the call: what the callee thinks of the offer.
func (m *mallory) says(t *testing.T, to sallyport.PeerID, offer []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	call, err := m.client.Call(ctx, to, offer)
	if err != nil {
		return nil, err
	}
	defer call.Close()
	return call.Receive(ctx)
}

// TestHostileOffers: garbage, truncated, replayed and forged offers are refused,
// and the host goes on.
func TestHostileOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		host, friend := l.site(natlab.SitePortRestricted, "host"), l.site(natlab.SitePortRestricted, "friend")
		l.ready(host, friend)
		go echo(host)
		m, alice := l.mallory("mallory", nil), newIdentity(t)
		to := host.PeerID()
		good := m.offer(t, to)
		fromAlice := holepunch.NewOffer(time.Now(), alice.PeerID(), to)
		stolen, err := holepunch.SealOffer(alice, fromAlice)
		check(t, err)
		rng := rand.New(rand.NewPCG(8, 8))
		garbage := make([]byte, 4096)
		for i := range garbage {
			garbage[i] = byte(rng.Uint32())
		}
		flipped := bytes.Clone(good)
		flipped[len(flipped)/2] ^= 1
		bad := map[string][]byte{
			"one byte":                    {0},
			"4,096 bytes of garbage":      garbage,
			"a flipped bit":               flipped,
			"a truncated offer":           good[:len(good)-1],
			"half an offer":               good[:len(good)/2],
			"an offer with a byte behind": append(bytes.Clone(good), 0),
			"an offer made by alice":      stolen,
			"an offer to somebody else":   m.offer(t, friend.PeerID()),
			"one to nobody":               m.offer(t, newIdentity(t).PeerID()),
		}
		for what, offer := range bad {
			if answer, err := m.says(t, to, offer); !errors.Is(err, rendezvous.ErrRefused) {
				t.Errorf("%s: got %d bytes, %v; want a refusal", what, len(answer), err)
			}
		}
		if answer, err := m.says(t, to, good); err != nil || len(answer) == 0 {
			t.Errorf("a good offer: %v", err)
		}
		if _, err := m.says(t, to, good); !errors.Is(err, rendezvous.ErrRefused) {
			t.Errorf("a replayed offer: %v, want a refusal", err)
		}
		old := holepunch.NewOffer(time.Now().Add(-36*time.Hour), m.id.PeerID(), to)
		sealed, err := holepunch.SealOffer(m.id, old)
		check(t, err)
		if _, err := m.says(t, to, sealed); err != nil {
			t.Errorf("an offer from a clock that is 36 hours late: %v", err)
		}
		link, err := friend.Dial(t.Context(), host.Ticket())
		check(t, err)
		check(t, link.WaitDirect(t.Context()))
		check(t, ask(t, link))
	})
}

// TestForbiddenCandidates: no packet goes to loopback, multicast, low ports and
// the like, whoever asks.
func TestForbiddenCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newTap()
		bad := map[netip.AddrPort]int{}
		for _, a := range []string{"127.0.0.1:5000", "0.0.0.0:5000", "224.0.0.1:5000", "255.255.255.255:5000", "169.254.169.254:8080",
			"20.0.77.10:53", "20.0.77.10:443", "20.0.77.10:1023", "[::1]:5000", "[ff02::1]:5000", "[::ffff:127.0.0.1]:5000", "[fe80::1]:5000"} {
			bad[netip.MustParseAddrPort(a)] = 0
		}
		wire.extra = func(e natlab.Event) {
			if _, ok := bad[e.Packet.Dst]; ok && e.Kind == natlab.Sent {
				bad[e.Packet.Dst]++
			}
		}
		l := newLab(t, natlab.Config{Tap: wire.see})
		l.startNode(true)
		host := l.site(natlab.SiteNone, "host")
		l.ready(host)
		m := l.mallory("mallory", nil)
		for a := range bad {
			o := holepunch.NewOffer(time.Now(), m.id.PeerID(), host.PeerID())
			o.Candidates = []holepunch.Candidate{{Kind: holepunch.ServerReflexive, Addr: a}}
			sealed, err := holepunch.SealOffer(m.id, o)
			if err != nil {
				t.Logf("%v: %v", a, err) // cannot even be said
				continue
			}
			m.says(t, host.PeerID(), sealed)
		}
		time.Sleep(30 * time.Second)
		for a, n := range bad {
			if n > 0 {
				t.Errorf("%d packets to %v", n, a)
			}
		}
	})
}
