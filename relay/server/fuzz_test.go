package server

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
	"github.com/sallyport-net/sallyport/relay"
)

// FuzzServer: whatever a stranger or a user with a good credential sends, the server survives and
// still answers. The first byte chooses: the rest is a raw datagram, or the attributes of a signed
// request of one of the methods.
func FuzzServer(f *testing.F) {
	s := start(f, func(c *Config) {
		c.AllowPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Rates = Rates{PerPrefix: -1, Global: -1}
		c.Quotas = Quotas{PerUser: -1, PerPrefix: -1}
		c.ListenPacket = func(string, string) (net.PacketConn, error) { // nothing leaves
			nothing := func([]byte) (int, netip.AddrPort, bool) { return 0, netip.AddrPort{}, false }
			return &fakeConn{next: nothing, drained: make(chan struct{}), closed: make(chan struct{})}, nil
		}
	})
	username, password := relay.MintCredential(testSecret, "alice", time.Now().Add(time.Hour))
	c := newRaw(f, s, username, password)
	c.challenge()
	methods := []stun.Method{
		stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind, stun.MethodSend,
		stun.MethodConnect, stun.MethodConnectionBind, stun.MethodBinding, stun.MethodData,
	}
	attrs := func(setters ...stun.Setter) []byte { return build(f, setters...)[20:] }
	peer := peerAt(netip.MustParseAddrPort("127.0.0.1:9"))
	f.Add([]byte{0, 0x40, 0, 0, 1, 1})
	f.Add(append([]byte{0}, build(f, request1(stun.MethodAllocate), transportUDP)...))
	f.Add(append([]byte{1}, attrs(transportUDP)...))
	f.Add(append([]byte{1}, attrs(transportUDP, attr(stun.AttrEvenPort, 0x80), attr(stun.AttrLifetime, 0, 0, 0, 9))...))
	f.Add(append([]byte{1}, attrs(transportUDP, attr(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8), family(2))...))
	f.Add(append([]byte{2}, attrs(attr(stun.AttrLifetime, 0, 0, 0, 0), family(1))...))
	f.Add(append([]byte{3}, attrs(peer, peer)...))
	f.Add(append([]byte{4}, attrs(attr(stun.AttrChannelNumber, 0x40, 1, 0, 0), peer)...))
	f.Add(append([]byte{5}, attrs(peer, attr(stun.AttrData, 1, 2, 3))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c.t = t
		if len(b) == 0 || len(b) > 1200 {
			return
		}
		kind, body := int(b[0])%(len(methods)+1), b[1:]
		if kind > 0 {
			body = c.sign(methods[kind-1], body)
		}
		c.send(body)
		marker := build(t, request1(stun.MethodBinding))
		c.send(marker)
		for {
			got := c.receive("the server after a strange packet")
			if packet.ValidSTUN(got) != nil && got[0] < 0x40 {
				t.Fatalf("the server sent what it would not take: %x", got)
			}
			if len(got) >= 20 && string(got[8:20]) == string(marker[8:20]) {
				return
			}
		}
	})
}

// sign makes a message of raw attributes, with good credentials behind them.
func (c *raw) sign(method stun.Method, attrs []byte) []byte {
	class := stun.ClassRequest
	if method == stun.MethodSend || method == stun.MethodData {
		class = stun.ClassIndication
	}
	m := stun.New()
	m.TransactionID = stun.NewTransactionID()
	m.Type = stun.NewType(method, class)
	m.WriteHeader()
	m.Raw = append(m.Raw, attrs[:len(attrs)&^3]...)
	m.Length = uint32(len(m.Raw) - 20)
	for _, s := range []stun.Setter{stun.NewUsername(c.username), stun.NewRealm(c.realm), c.nonce, c.key} {
		_ = s.AddTo(m) // cannot fail: short values
	}
	m.WriteLength()
	return m.Raw
}
