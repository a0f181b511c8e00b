package wire

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/sallyport-net/sallyport"
)

// Present asks which of up to MaxIDs peers are registered.
type Present []sallyport.PeerID

// Append appends the frame.
func (m Present) Append(b []byte) []byte {
	return appendFrame(b, TypePresent, func(b []byte) []byte {
		for _, id := range m[:min(len(m), MaxIDs)] {
			b = append(b, id[:]...)
		}
		return b
	})
}

// ParsePresent reads the payload of a Present.
func ParsePresent(payload []byte) (Present, error) {
	d := &decoder{b: payload}
	d.require(len(payload) > 0 && len(payload) <= MaxIDs*len(sallyport.PeerID{}))
	var m Present
	for len(d.b) > 0 && !d.bad {
		m = append(m, d.id())
	}
	return m, d.done("present")
}

// Presence answers a Present in the same order.
type Presence []bool

// Append appends the frame.
func (m Presence) Append(b []byte) []byte {
	return appendFrame(b, TypePresence, func(b []byte) []byte {
		for _, here := range m[:min(len(m), MaxIDs)] {
			v := byte(0)
			if here {
				v = 1
			}
			b = append(b, v)
		}
		return b
	})
}

// ParsePresence reads the payload of a Presence.
func ParsePresence(payload []byte) (Presence, error) {
	d := &decoder{b: payload}
	d.require(len(payload) <= MaxIDs)
	var m Presence
	for len(d.b) > 0 && !d.bad {
		v := d.u8()
		d.require(v <= 1)
		m = append(m, v == 1)
	}
	return m, d.done("presence")
}

// RelaysRequest asks for relays and credentials.
type RelaysRequest struct{}

// Append appends the frame.
func (RelaysRequest) Append(b []byte) []byte {
	return appendFrame(b, TypeRelaysRq, func(b []byte) []byte { return b })
}

// ParseRelaysRequest reads the payload of a RelaysRequest, which is empty.
func ParseRelaysRequest(payload []byte) error {
	return (&decoder{b: payload}).done("relays request")
}

// Relay is a TURN server and a credential for it.
type Relay struct {
	ID                              sallyport.PeerID // zero: not a peer
	Name, Realm, Username, Password string
	TTL                             time.Duration // whole seconds; relative, as clocks differ
	Addrs                           []netip.AddrPort
}

// Relays answers a RelaysRequest, best first.
type Relays []Relay

// Append appends the frame.
func (m Relays) Append(b []byte) []byte {
	return appendFrame(b, TypeRelays, func(b []byte) []byte {
		list := m[:min(len(m), MaxRelays)]
		b = append(b, byte(len(list)))
		for _, r := range list {
			b = append(b, r.ID[:]...)
			b = appendText(appendText(b, r.Name, MaxName), r.Realm, MaxRealm)
			b = appendText(appendText(b, r.Username, MaxUser), r.Password, MaxUser)
			b = binary.BigEndian.AppendUint32(b, uint32(r.TTL/time.Second))
			b = appendAddrs(b, r.Addrs)
		}
		return b
	})
}

// ParseRelays reads the payload of a Relays.
func ParseRelays(payload []byte) (Relays, error) {
	d := &decoder{b: payload}
	n := int(d.u8())
	d.require(n <= MaxRelays)
	var m Relays
	for i := 0; i < n && !d.bad; i++ {
		m = append(m, d.relay())
	}
	return m, d.done("relays")
}

func (d *decoder) relay() Relay {
	r := Relay{ID: d.id(), Name: d.text(MaxName), Realm: d.text(MaxRealm)}
	r.Username, r.Password = d.text(MaxUser), d.text(MaxUser)
	r.TTL = time.Duration(d.u32()) * time.Second
	r.Addrs = d.addrs()
	return r
}
