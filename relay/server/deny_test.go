package server

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// encodings are the ways to write an IPv4 address that some stack may take for it.
var encodings = map[string]func(v4 [4]byte) netip.Addr{
	"IPv4":       func(v4 [4]byte) netip.Addr { return netip.AddrFrom4(v4) },
	"mapped":     func(v4 [4]byte) netip.Addr { return embed("::ffff:0:0", 12, v4) },
	"compatible": func(v4 [4]byte) netip.Addr { return embed("::", 12, v4) },
	"NAT64":      func(v4 [4]byte) netip.Addr { return embed("64:ff9b::", 12, v4) },
	"6to4":       func(v4 [4]byte) netip.Addr { return embed("2002::1", 2, v4) },
}

func embed(prefix string, at int, v4 [4]byte) netip.Addr {
	b := netip.MustParseAddr(prefix).As16()
	copy(b[at:], v4[:])
	return netip.AddrFrom16(b)
}

// TestDenyList: every prefix, first and last address, in every encoding gets 403 for a permission
// and for a channel (RFC 8656 §9.2, §12.2).
func TestDenyList(t *testing.T) {
	s := start(t, nil)
	v4, v6 := newUser(t, s, "four"), newUser(t, s, "six")
	v4.want(0, "allocate", stun.MethodAllocate, transportUDP)
	v6.want(0, "allocate IPv6", stun.MethodAllocate, transportUDP, family(2))
	channel := uint16(0x4000)
	forbidden := func(c *raw, addr netip.Addr, why string) {
		t.Helper()
		peer := peerAt(netip.AddrPortFrom(addr, 9999))
		c.want(403, why, stun.MethodCreatePermission, peer)
		channel++
		number := binary.BigEndian.AppendUint32(nil, uint32(channel)<<16)
		c.want(403, why, stun.MethodChannelBind, attr(stun.AttrChannelNumber, number...), peer)
	}
	for _, p := range denied {
		for _, addr := range []netip.Addr{p.Addr(), last(p)} {
			if !addr.Is4() {
				if addr.Is4In6() { // denied as the IPv4 address it is, or allowed as that
					continue
				}
				forbidden(v6, addr, p.String())
				continue
			}
			for name, encode := range encodings {
				c, at := v6, encode(addr.As4())
				if at.Unmap().Is4() {
					c = v4
				}
				forbidden(c, at, p.String()+" "+name)
			}
		}
	}
	if got := s.Stats().Denied; got == 0 {
		t.Error("no denial was counted")
	}
}

// TestEncodingsOfPublicAddresses: even where the IPv4 address inside is public, an encoding is not
// relayed to; the plain and the mapped one are.
func TestEncodingsOfPublicAddresses(t *testing.T) {
	s := start(t, func(c *Config) { c.AllowPeers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for name, encode := range encodings {
		for _, v4 := range [][4]byte{{8, 8, 8, 8}, {10, 1, 2, 3}} {
			want := name == "IPv4" || name == "mapped"
			if got := s.policy.permits(encode(v4)); got != want {
				t.Errorf("%s of %v: permitted %v, want %v", name, v4, got, want)
			}
		}
	}
}

// TestDenyOwnAddresses: the machine's own addresses, whatever they are, and unknown ones when they
// cannot be listed.
func TestDenyOwnAddresses(t *testing.T) {
	public := netip.MustParseAddr("8.8.4.4")
	own := []netip.Addr{public, netip.MustParseAddr("2a00::1")}
	s := start(t, func(c *Config) { c.Interfaces = func() ([]netip.Addr, error) { return own, nil } })
	for _, addr := range own {
		if s.policy.permits(addr) {
			t.Errorf("%v is ours and permitted", addr)
		}
	}
	if other := netip.MustParseAddr("8.8.8.8"); !s.policy.permits(other) {
		t.Errorf("%v is nobody's and refused", other)
	}
	blind := start(t, func(c *Config) {
		c.Interfaces = func() ([]netip.Addr, error) { return nil, errors.New("no netlink") }
	})
	if blind.policy.permits(public) {
		t.Error("permitted without knowing the own addresses")
	}
}

// TestDenyAtSend: a permission is for an address, so ports are checked when a packet leaves: none
// to our listening sockets, even where AllowPeers opens the address.
func TestDenyAtSend(t *testing.T) {
	admin := loopback(t, "127.0.0.1")
	defer admin.Close()
	s := start(t, func(c *Config) {
		c.AllowPeers = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.OwnAddrs = []netip.AddrPort{addrPortOf(admin.LocalAddr())}
	})
	c := newUser(t, s, "eve")
	c.want(0, "allocate", stun.MethodAllocate, transportUDP)
	listening := s.listeners[0].local
	c.want(0, "permission", stun.MethodCreatePermission, peerAt(listening))
	for _, target := range []netip.AddrPort{listening, addrPortOf(admin.LocalAddr())} {
		before := s.Stats()
		c.wantSilence(build(t, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAt(target), attr(stun.AttrData, 1)), "send")
		after := s.Stats()
		if after.Denied != before.Denied+1 || after.PacketsUp != before.PacketsUp {
			t.Errorf("to our own %v: before %+v after %+v", target, before, after)
		}
	}
}

// TestRelayedToRelayed: a peer's relayed address may be on this very server; nothing else at that
// address may be reached. The address advertised is not the one listened on.
func TestRelayedToRelayed(t *testing.T) {
	public := netip.MustParseAddr("8.8.4.4")
	s := start(t, func(c *Config) {
		c.Relay = []RelayAddr{{Listen: netip.MustParseAddr("127.0.0.1"), Advertise: public}}
	})
	alice, bob := newUser(t, s, "alice"), newUser(t, s, "bob")
	relayedOf := func(c *raw) netip.AddrPort {
		code, m := c.do(stun.MethodAllocate, transportUDP)
		var a stun.XORMappedAddress
		if err := a.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil || code != 0 {
			t.Fatalf("allocate: %d %v", code, err)
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		return netip.AddrPortFrom(ip.Unmap(), uint16(a.Port))
	}
	a, b := relayedOf(alice), relayedOf(bob)
	if a.Addr() != public || b.Addr() != public {
		t.Fatalf("relayed %v and %v, want them advertised at %v", a, b, public)
	}
	alice.want(0, "permit", stun.MethodCreatePermission, peerAt(b))
	bob.want(0, "permit", stun.MethodCreatePermission, peerAt(a))
	data := []byte("0123456789abcdef")
	alice.send(build(t, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAt(b), attr(stun.AttrData, data...)))
	m := new(stun.Message)
	if err := stun.Decode(bob.receive("relayed to relayed"), m); err != nil {
		t.Fatal(err)
	}
	var from stun.XORMappedAddress
	if err := from.GetFromAs(m, stun.AttrXORPeerAddress); err != nil || from.Port != int(a.Port()) || !from.IP.Equal(public.AsSlice()) {
		t.Errorf("bob got it from %v (%v), want %v", from, err, a)
	}
	if got, _ := m.Get(stun.AttrData); string(got) != string(data) {
		t.Errorf("bob got %q", got)
	}
	closed := netip.AddrPortFrom(public, 22)
	if to, relayed := s.localOf(closed); s.policy.sends(to, relayed) {
		t.Error("a port of the advertised address that is not relayed is open")
	}
}

// TestInterfacesAreReread: an address the machine gets later is denied too.
func TestInterfacesAreReread(t *testing.T) {
	late := netip.MustParseAddr("8.8.4.4")
	var own []netip.Addr
	p := &policy{interfaces: func() ([]netip.Addr, error) { return own, nil }}
	if !p.permits(late) {
		t.Fatal("refused before it is ours")
	}
	own = []netip.Addr{late}
	p.expire = time.Now()
	if p.permits(late) {
		t.Error("permitted after it became ours")
	}
}
