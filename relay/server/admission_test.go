package server

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/relay"
)

func TestNewRefuses(t *testing.T) {
	ip := netip.MustParseAddr("127.0.0.1")
	secrets := func() [][]byte { return nil }
	conns := []net.PacketConn{loopback(t, "127.0.0.1")}
	defer conns[0].Close()
	at := []RelayAddr{{Listen: ip}}
	tests := []struct {
		name string
		cfg  Config
		want error
	}{
		{"no secret", Config{Conns: conns, Relay: at}, ErrNoSecret},
		{"no socket", Config{Relay: at, Secrets: secrets}, ErrConfig},
		{"no relayed address", Config{Conns: conns, Secrets: secrets}, ErrConfig},
		{"unspecified and not advertised", Config{Conns: conns, Secrets: secrets, Relay: []RelayAddr{{Listen: netip.IPv4Unspecified()}}}, ErrConfig},
		{"families mixed", Config{Conns: conns, Secrets: secrets, Relay: []RelayAddr{{Listen: ip, Advertise: netip.IPv6Loopback()}}}, ErrConfig},
		{"ports reversed", Config{Conns: conns, Secrets: secrets, Relay: []RelayAddr{{Listen: ip, MinPort: 2, MaxPort: 1}}}, ErrConfig},
		{"long realm", Config{Conns: conns, Secrets: secrets, Relay: at, Realm: "a realm too long"}, ErrConfig},
	}
	for _, tt := range tests {
		if _, err := New(tt.cfg); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestCredentials: what an Allocate is admitted with.
func TestCredentials(t *testing.T) {
	old, future := []byte("the secret before"), []byte("the secret after")
	s := start(t, func(c *Config) {
		c.Secrets = func() [][]byte { return [][]byte{testSecret, old} }
		c.Rates = Rates{PerPrefix: -1}
	})
	now := time.Now()
	mint := func(secret []byte, user string, after time.Duration) [2]string {
		username, password := relay.MintCredential(secret, user, now.Add(after))
		return [2]string{username, password}
	}
	good := mint(testSecret, "alice", 5*time.Minute)
	tests := []struct {
		name string
		cred [2]string
		code int
	}{
		{"good", good, 0},
		{"under the previous secret", mint(old, "alice", 5*time.Minute), 0},
		{"under a secret not active", mint(future, "alice", 5*time.Minute), 401},
		{"under no secret", mint(nil, "alice", 5*time.Minute), 401},
		{"expired", mint(testSecret, "alice", -2*time.Second), 401},
		{"too far in the future", mint(testSecret, "alice", 26*time.Hour), 401},
		{"time in milliseconds", mint(testSecret, "alice", time.Duration(now.Unix())*999*time.Second/1e9*1e9), 401},
		{"wrong password", [2]string{good[0], "AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, 401},
		{"another user's password", [2]string{good[0], mint(testSecret, "bob", 5*time.Minute)[1]}, 401},
		{"prolonged by its user", [2]string{mint(testSecret, "alice", 10*time.Minute)[0], good[1]}, 401},
		{"no user", mint(testSecret, "", 5*time.Minute), 401},
		{"no time", [2]string{"alice", relay.CredentialPassword(testSecret, "alice")}, 401},
		{"negative time", [2]string{"-1:alice", relay.CredentialPassword(testSecret, "-1:alice")}, 401},
	}
	for _, tt := range tests {
		newRaw(t, s, tt.cred[0], tt.cred[1]).want(tt.code, tt.name, stun.MethodAllocate, transportUDP)
	}
}

// TestOtherRealm: a credential for another realm is none here.
func TestOtherRealm(t *testing.T) {
	s := start(t, nil)
	username, password := relay.MintCredential(testSecret, "alice", time.Now().Add(time.Minute))
	c := newRaw(t, s, username, password)
	c.realm = "other"
	c.key = stun.NewLongTermIntegrity(username, c.realm, password)
	c.want(401, "other realm", stun.MethodAllocate, transportUDP)
}

// TestNoSecrets: admission fails closed while there is no secret.
func TestNoSecrets(t *testing.T) {
	s := start(t, func(c *Config) { c.Secrets = func() [][]byte { return [][]byte{nil} } })
	username, password := relay.MintCredential(nil, "alice", time.Now().Add(time.Minute))
	newRaw(t, s, username, password).want(401, "the empty secret", stun.MethodAllocate, transportUDP)
}

// TestExpiryOfALivingAllocation: a credential is good for new allocations until it expires, for
// what a living one needs during Grace after that, and for nothing later.
func TestExpiryOfALivingAllocation(t *testing.T) {
	var ahead atomic.Int64
	s := start(t, func(c *Config) {
		c.NodeTime = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	c := newUser(t, s, "alice")
	c.want(0, "fresh", stun.MethodAllocate, transportUDP)
	peer := peerAt(netip.MustParseAddrPort("8.8.8.8:9"))
	channel := attr(stun.AttrChannelNumber, 0x40, 0, 0, 0)

	ahead.Store(int64(20 * time.Hour))
	c.want(0, "20 h later", stun.MethodRefresh)
	c.want(0, "20 h later", stun.MethodCreatePermission, peer)
	c.want(0, "20 h later", stun.MethodChannelBind, channel, peer)
	late := newRaw(t, s, c.username, "")
	late.key = c.key
	late.want(401, "expired for a new allocation", stun.MethodAllocate, transportUDP)

	ahead.Store(int64(25 * time.Hour))
	c.want(401, "beyond the grace", stun.MethodRefresh)
	c.want(401, "beyond the grace", stun.MethodCreatePermission, peer)
}

// TestWrongAllocation: pion is silent where RFC 8656 §7.3 and §5 want 437 and 441.
func TestWrongAllocation(t *testing.T) {
	s := start(t, nil)
	c := newUser(t, s, "alice")
	peer := peerAt(netip.MustParseAddrPort("8.8.8.8:9"))
	channel := attr(stun.AttrChannelNumber, 0x40, 0, 0, 0)
	all := func(code int, why string) {
		t.Helper()
		c.want(code, why, stun.MethodRefresh)
		c.want(code, why, stun.MethodCreatePermission, peer)
		c.want(code, why, stun.MethodChannelBind, channel, peer)
	}
	all(437, "no allocation")
	c.want(0, "allocate", stun.MethodAllocate, transportUDP)
	c.want(437, "a second one", stun.MethodAllocate, transportUDP)
	username, password := relay.MintCredential(testSecret, "mallory", time.Now().Add(time.Minute))
	c.username, c.key = username, stun.NewLongTermIntegrity(username, c.realm, password)
	all(441, "another user's allocation")
}

// TestRequestErrors: what RFC 8656 §7.2 wants refused, and how.
func TestRequestErrors(t *testing.T) {
	s := start(t, func(c *Config) { c.Relay = c.Relay[:1] })
	c := newUser(t, s, "alice")
	c.want(400, "no transport", stun.MethodAllocate)
	c.want(442, "TCP", stun.MethodAllocate, attr(stun.AttrRequestedTransport, 6, 0, 0, 0))
	c.want(442, "SCTP", stun.MethodAllocate, attr(stun.AttrRequestedTransport, 132, 0, 0, 0))
	c.want(440, "a family without addresses", stun.MethodAllocate, transportUDP, family(2))
	c.want(440, "an unknown family", stun.MethodAllocate, transportUDP, family(7))
	c.want(420, "don't fragment", stun.MethodAllocate, transportUDP, attr(stun.AttrDontFragment))
	c.want(508, "a lifetime of nothing", stun.MethodAllocate, transportUDP, attr(stun.AttrLifetime, 0, 0, 0, 0))
	c.want(508, "an unknown reservation", stun.MethodAllocate, transportUDP, attr(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8))
	if got := s.Stats(); got.Allocations != 0 || got.Users != 0 || got.Prefixes != 0 {
		t.Errorf("refused requests are still counted: %+v", got)
	}
	c.want(0, "a good one", stun.MethodAllocate, transportUDP)
	c.want(443, "an IPv6 peer", stun.MethodCreatePermission, peerAt(netip.MustParseAddrPort("[2a00::1]:9")))
	c.want(400, "no peer", stun.MethodCreatePermission)
	c.want(400, "channel 0x3fff", stun.MethodChannelBind, attr(stun.AttrChannelNumber, 0x3f, 0xff, 0, 0), peerAt(netip.MustParseAddrPort("8.8.8.8:9")))
}

// TestEvenPort: the port is even, the next one is free for whoever has the token.
func TestEvenPort(t *testing.T) {
	s := start(t, nil)
	rtp, rtcp := newUser(t, s, "alice"), newUser(t, s, "alice")
	portOf := func(m *stun.Message) int {
		var a stun.XORMappedAddress
		if err := a.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
			t.Fatalf("relayed address: %v", err)
		}
		return a.Port
	}
	_, m := rtp.do(stun.MethodAllocate, transportUDP, attr(stun.AttrEvenPort, 0x80))
	even := portOf(m)
	token, err := m.Get(stun.AttrReservationToken)
	if even%2 != 0 || err != nil {
		t.Fatalf("port %d, token %v", even, err)
	}
	_, m = rtcp.do(stun.MethodAllocate, transportUDP, attr(stun.AttrReservationToken, token...))
	if odd := portOf(m); odd != even+1 {
		t.Errorf("reserved port %d after %d", odd, even)
	}
}

// TestQuotas: per user whatever the time in the username, per source prefix, in total; and each
// is given back by a Refresh with lifetime 0.
func TestQuotas(t *testing.T) {
	tests := []struct {
		name   string
		quotas Quotas
		user   func(i int) string
		code   int
	}{
		{"user", Quotas{PerUser: 3, PerPrefix: -1, Total: -1}, func(int) string { return "alice" }, 486},
		{"prefix", Quotas{PerUser: -1, PerPrefix: 3, Total: -1}, func(i int) string { return string(rune('a' + i)) }, 486},
		{"total", Quotas{PerUser: -1, PerPrefix: -1, Total: 3}, func(i int) string { return string(rune('a' + i)) }, 508},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, func(c *Config) { c.Quotas = tt.quotas })
			var clients []*raw
			for i := range 4 {
				username, password := relay.MintCredential(testSecret, tt.user(i), time.Now().Add(time.Duration(i+1)*time.Minute))
				clients = append(clients, newRaw(t, s, username, password))
			}
			for _, c := range clients[:3] {
				c.want(0, "within", stun.MethodAllocate, transportUDP)
			}
			clients[3].want(tt.code, "beyond", stun.MethodAllocate, transportUDP)
			clients[0].want(0, "delete", stun.MethodRefresh, attr(stun.AttrLifetime, 0, 0, 0, 0))
			clients[3].want(0, "after one was given back", stun.MethodAllocate, transportUDP)
			if got := s.Stats(); got.Allocations != 3 || got.Refused != 1 {
				t.Errorf("stats %+v", got)
			}
		})
	}
}

// TestAllocationLimits: permissions and channels of one allocation are bounded.
func TestAllocationLimits(t *testing.T) {
	s := start(t, func(c *Config) { c.Quotas.PerAllocation = 2 })
	c := newUser(t, s, "alice")
	c.want(0, "allocate", stun.MethodAllocate, transportUDP)
	peer := func(text string) stun.Setter { return peerAt(netip.MustParseAddrPort(text)) }
	bind := func(n uint16, p stun.Setter, code int, why string) {
		t.Helper()
		c.want(code, why, stun.MethodChannelBind, attr(stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(n)<<16)...), p)
	}
	bind(0x4000, peer("8.8.8.8:1"), 0, "first")
	bind(0x4001, peer("8.8.8.8:2"), 0, "second")
	bind(0x4002, peer("8.8.8.8:3"), 508, "third channel")
	c.want(0, "second permission", stun.MethodCreatePermission, peer("8.8.8.9:0"))
	c.want(508, "third permission", stun.MethodCreatePermission, peer("8.8.8.10:0"))
	c.want(0, "a permission again", stun.MethodCreatePermission, peer("8.8.8.8:0"))
	bind(0x4000, peer("8.8.8.8:1"), 0, "refresh of the first")
}

// TestBurst: many clients allocate, delete, and vanish at once; every counter returns to zero.
func TestBurst(t *testing.T) {
	s := start(t, func(c *Config) {
		c.Conns = append(c.Conns, loopback(t, "127.0.0.1"))
		c.Rates = Rates{PerPrefix: -1}
		c.Quotas = Quotas{PerUser: 5, PerPrefix: 30, Total: 25}
	})
	var wg sync.WaitGroup
	for i := range 40 {
		c := newUser(t, s, string(rune('a'+i%8)))
		c.server = s.listeners[i%2].LocalAddr()
		wg.Go(func() {
			for range 5 {
				if code, _ := c.do(stun.MethodAllocate, transportUDP); code != 0 {
					continue
				}
				// pion's reader of a closed allocation deletes the client's next one, if it may.
				c.want(0, "keep", stun.MethodRefresh)
				c.want(0, "delete", stun.MethodRefresh, attr(stun.AttrLifetime, 0, 0, 0, 0))
			}
		})
	}
	wg.Wait()
	if got := s.Stats(); got.Allocations != 0 || got.Users != 0 || got.Prefixes != 0 || got.Allocated == 0 {
		t.Errorf("after the burst: %+v", got)
	}
	left := newUser(t, s, "z")
	left.want(0, "one stays", stun.MethodAllocate, transportUDP)
	_ = s.Close()
	if got := s.Stats(); got.Allocations != 0 || got.Users != 0 || got.Prefixes != 0 {
		t.Errorf("after Close: %+v", got)
	}
}
