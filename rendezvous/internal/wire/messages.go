package wire

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/sallyport-net/sallyport"
)

// Flags of a Hello.
const (
	FlagCallable  uint8 = 1 << iota // register: calls may come in
	FlagYield                       // only if no other program is registered with this key
	FlagVolunteer                   // a Volunteer follows
	flagsKnown    = FlagCallable | FlagYield | FlagVolunteer
)

// Hello opens the control stream.
type Hello struct {
	Flags     uint8
	Instance  [8]byte   // one running program; the same after it reconnects
	Time      time.Time // by the peer's clock, which may be a day off
	Volunteer *Volunteer
}

// Volunteer describes the relay that the peer runs. An unspecified IP among
// Addrs stands for the address at which the node sees this peer.
type Volunteer struct {
	Name, Realm string
	Secret      []byte // MinSecret to MaxSecret bytes
	Addrs       []netip.AddrPort
}

// Append appends the frame.
func (m Hello) Append(b []byte) []byte {
	return appendFrame(b, TypeHello, func(b []byte) []byte {
		flags := m.Flags &^ FlagVolunteer
		if m.Volunteer != nil {
			flags |= FlagVolunteer
		}
		b = append(b, Version, flags)
		b = appendTime(append(b, m.Instance[:]...), m.Time)
		if v := m.Volunteer; v != nil {
			b = appendText(appendText(b, v.Name, MaxName), v.Realm, MaxRealm)
			b = appendAddrs(appendBytes(b, v.Secret, MaxSecret), v.Addrs)
		}
		return b
	})
}

// ParseHello reads the payload of a Hello.
func ParseHello(payload []byte) (Hello, error) {
	d := &decoder{b: payload}
	d.require(d.u8() == Version)
	m := Hello{Flags: d.u8()}
	d.require(m.Flags&^flagsKnown == 0)
	copy(m.Instance[:], d.take(len(m.Instance)))
	m.Time = d.time()
	if m.Flags&FlagVolunteer != 0 && !d.bad {
		v := &Volunteer{Name: d.text(MaxName), Realm: d.text(MaxRealm), Secret: d.bytes(MaxSecret), Addrs: d.addrs()}
		d.require(len(v.Secret) >= MinSecret && len(v.Addrs) > 0)
		m.Volunteer = v
	}
	return m, d.done("hello")
}

// Welcome answers a Hello: the peer is registered.
type Welcome struct {
	Observed netip.AddrPort // where the node sees the peer
	Time     time.Time      // by the node's clock
	STUN     []netip.AddrPort
}

// Append appends the frame.
func (m Welcome) Append(b []byte) []byte {
	return appendFrame(b, TypeWelcome, func(b []byte) []byte {
		return appendAddrs(appendTime(appendAddr(b, m.Observed), m.Time), m.STUN)
	})
}

// ParseWelcome reads the payload of a Welcome.
func ParseWelcome(payload []byte) (Welcome, error) {
	d := &decoder{b: payload}
	m := Welcome{Observed: d.addr(), Time: d.time(), STUN: d.addrs()}
	return m, d.done("welcome")
}

// Ping asks whether the node is alive. It is padded, so that a node that
// restarted answers it with a stateless reset (RFC 9000 section 10.3).
type Ping struct{ Seq uint32 }

// Append appends the frame.
func (m Ping) Append(b []byte) []byte {
	return appendFrame(b, TypePing, func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint32(b, m.Seq), make([]byte, pingPadding)...)
	})
}

// ParsePing reads the payload of a Ping.
func ParsePing(payload []byte) (Ping, error) {
	d := &decoder{b: payload}
	m := Ping{Seq: d.u32()}
	d.require([pingPadding]byte(d.take(pingPadding)) == [pingPadding]byte{})
	return m, d.done("ping")
}

// Pong answers a Ping.
type Pong struct {
	Seq      uint32
	Observed netip.AddrPort
	Time     time.Time
}

// Append appends the frame.
func (m Pong) Append(b []byte) []byte {
	return appendFrame(b, TypePong, func(b []byte) []byte {
		return appendTime(appendAddr(binary.BigEndian.AppendUint32(b, m.Seq), m.Observed), m.Time)
	})
}

// ParsePong reads the payload of a Pong.
func ParsePong(payload []byte) (Pong, error) {
	d := &decoder{b: payload}
	m := Pong{Seq: d.u32(), Observed: d.addr(), Time: d.time()}
	return m, d.done("pong")
}

// Listed tells a volunteer what the node found when it tried the relay from
// outside: which addresses answer, and why the others do not.
type Listed struct {
	Addrs  []netip.AddrPort // empty: the relay is not listed
	Reason string
}

// maxListedReason is larger than MaxReason: it is read by an operator.
const maxListedReason = 255

// Append appends the frame.
func (m Listed) Append(b []byte) []byte {
	return appendFrame(b, TypeListed, func(b []byte) []byte {
		return appendText(appendAddrs(b, m.Addrs), m.Reason, maxListedReason)
	})
}

// ParseListed reads the payload of a Listed.
func ParseListed(payload []byte) (Listed, error) {
	d := &decoder{b: payload}
	m := Listed{Addrs: d.addrs(), Reason: d.text(maxListedReason)}
	return m, d.done("listed")
}

// Call opens a call: on the caller's stream Peer is the callee, on the
// callee's it is the caller, as TLS proved it to the node.
type Call struct {
	Peer  sallyport.PeerID
	Offer []byte // 1 to MaxMessage bytes
}

// Append appends the frame.
func (m Call) Append(b []byte) []byte {
	return appendFrame(b, TypeCall, func(b []byte) []byte {
		return append(append(b, m.Peer[:]...), m.Offer...)
	})
}

// ParseCall reads the payload of a Call.
func ParseCall(payload []byte) (Call, error) {
	d := &decoder{b: payload}
	m := Call{Peer: d.id(), Offer: d.rest(1, MaxMessage)}
	return m, d.done("call")
}

// Message is opaque bytes from one side of a call to the other.
type Message []byte

// Append appends the frame.
func (m Message) Append(b []byte) []byte {
	return appendFrame(b, TypeMessage, func(b []byte) []byte { return append(b, m...) })
}

// ParseMessage reads the payload of a Message.
func ParseMessage(payload []byte) (Message, error) {
	d := &decoder{b: payload}
	m := Message(d.rest(1, MaxMessage))
	return m, d.done("message")
}

// End says why a call or a request ends; nothing follows it.
type End struct {
	Code   uint8
	Reason string
}

// Append appends the frame.
func (m End) Append(b []byte) []byte {
	return appendFrame(b, TypeEnd, func(b []byte) []byte {
		return appendText(append(b, m.Code), m.Reason, MaxReason)
	})
}

// ParseEnd reads the payload of an End.
func ParseEnd(payload []byte) (End, error) {
	d := &decoder{b: payload}
	m := End{Code: d.u8(), Reason: d.text(MaxReason)}
	d.require(m.Code >= EndOffline && m.Code <= EndNode)
	return m, d.done("end")
}
