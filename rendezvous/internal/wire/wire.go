// Package wire is what a peer and a rendezvous node say to each other: frames
// on QUIC streams, written by the Append methods and read by [Reader] and the
// Parse functions.
//
// A stream carries frames, one after the other, all numbers big-endian:
//
//	type     1 byte
//	length   2 bytes   of the payload, at most [MaxPayload]
//	payload
//
// Which frame comes first says what the stream is for:
//
//	control   peer → node  Hello, then Ping…        node → peer  Welcome, then Pong…, Listed…
//	call      peer → node  Call                     node → peer  Call (on a stream that the node opens)
//	          then Message… both ways, and End once from either
//	present   peer → node  Present                  node → peer  Presence
//	relays    peer → node  RelaysRequest            node → peer  Relays
//
// Fields inside a payload:
//
//	address   family 1 byte (4 or 6), port 2 bytes, IP 4 or 16 bytes
//	text      length 1 byte, UTF-8
//	time      8 bytes, milliseconds since 1970
//
// Every length is bounded before anything is allocated. A frame that is
// malformed in any way (bytes left over, an unknown flag, padding that is not
// zero) is an error: what parses encodes to the same bytes again. The package
// knows nothing of sockets or time.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport-net/sallyport"
)

// Type is the first byte of a frame.
type Type uint8

const (
	TypeHello    Type = 0x01
	TypeWelcome  Type = 0x02
	TypePing     Type = 0x03
	TypePong     Type = 0x04
	TypeListed   Type = 0x05
	TypeCall     Type = 0x10
	TypeMessage  Type = 0x11
	TypeEnd      Type = 0x12
	TypePresent  Type = 0x20
	TypePresence Type = 0x21
	TypeRelaysRq Type = 0x22
	TypeRelays   Type = 0x23
)

// Sizes in bytes, and counts. A frame beyond them does not parse.
const (
	Version     = 1
	MaxMessage  = 4096      // an offer or any later message of a call
	CallBudget  = 16 * 1024 // offers and messages of one call, both directions together
	MaxPayload  = 32 + MaxMessage
	MaxReason   = 64
	MaxName     = 32
	MaxRealm    = 64
	MaxUser     = 128
	MaxSecret   = 64
	MinSecret   = 16
	MaxIDs      = 128 // IDs in one Present
	MaxAddrs    = 8   // addresses in one list
	MaxRelays   = 6
	headerSize  = 3
	pingPadding = 36 // a stateless reset answers packets above 42 bytes only (quic-go's MinStatelessResetSize)
)

// Protocol is the ALPN of a node's QUIC port.
const Protocol = "sally-node/1"

// Application error codes that a QUIC connection between peer and node is
// closed with, and stream error codes.
const (
	CodeClosed    = 0 // this side is done
	CodeTakenOver = 1 // the same PeerID registered from elsewhere, later
	CodeLimited   = 2 // a limit was broken too often
	CodeProtocol  = 3 // the other side broke the protocol
	CodeLeaving   = 4 // the node shuts down or restarts
	CodeTaken     = 5 // registration with FlagYield, and somebody else is registered
	CodeGone      = 6 // the other side does not answer any more
)

// End codes: why a call, or a request, ended.
const (
	EndOffline  uint8 = 1 // callee is not registered
	EndRefused  uint8 = 2 // callee said no; the reason is its own
	EndLimited  uint8 = 3 // a limit of the node's
	EndBudget   uint8 = 4 // CallBudget is used up
	EndExpired  uint8 = 5 // the lifetime of a call is over
	EndTooLarge uint8 = 6 // a message above MaxMessage
	EndNode     uint8 = 7 // the node cannot: it says why
)

var (
	errMalformed = errors.New("malformed frame")
	// ErrTooLong is a frame whose length is above MaxPayload.
	ErrTooLong = errors.New("frame is longer than allowed")
)

// Reader reads frames from a stream. It survives a read that was interrupted
// by a deadline: the next call goes on where that one stopped.
type Reader struct {
	r      io.Reader
	header [headerSize]byte
	got    int // of header and payload together
	body   []byte
}

// NewReader returns a Reader of the frames in r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame; the payload is the caller's. The error is io.EOF
// at the end of the stream between two frames, io.ErrUnexpectedEOF inside one.
func (r *Reader) Next() (Type, []byte, error) {
	if err := r.fill(r.header[:], 0); err != nil {
		return 0, nil, err
	}
	if r.body == nil {
		n := int(binary.BigEndian.Uint16(r.header[1:]))
		if n > MaxPayload {
			return 0, nil, ErrTooLong
		}
		r.body = make([]byte, n)
	}
	if err := r.fill(r.body, headerSize); err != nil {
		return 0, nil, err
	}
	body := r.body
	r.got, r.body = 0, nil
	return Type(r.header[0]), body, nil
}

// fill reads what is missing of part, which begins at offset of the frame.
func (r *Reader) fill(part []byte, offset int) error {
	for r.got < offset+len(part) {
		n, err := r.r.Read(part[r.got-offset:])
		r.got += n
		switch {
		case r.got >= offset+len(part):
			return nil
		case err == io.EOF && r.got > 0:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return nil
}

// appendFrame appends the header and what body appends.
func appendFrame(b []byte, t Type, body func([]byte) []byte) []byte {
	start := len(b)
	b = body(append(b, byte(t), 0, 0))
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-headerSize))
	return b
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().Unmap().WithZone("")
	family := byte(6)
	if ip.Is4() {
		family = 4
	} else if !ip.IsValid() {
		ip, family = netip.IPv4Unspecified(), 4
	}
	b = append(b, family)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	return append(b, ip.AsSlice()...)
}

func appendAddrs(b []byte, addrs []netip.AddrPort) []byte {
	addrs = addrs[:min(len(addrs), MaxAddrs)]
	b = append(b, byte(len(addrs)))
	for _, a := range addrs {
		b = appendAddr(b, a)
	}
	return b
}

func appendBytes(b, v []byte, limit int) []byte {
	v = v[:min(len(v), limit)]
	return append(append(b, byte(len(v))), v...)
}

// appendText cuts s to limit bytes, at a rune's end.
func appendText(b []byte, s string, limit int) []byte {
	return appendBytes(b, []byte(strings.ToValidUTF8(s[:min(len(s), limit)], "")), limit)
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

// decoder takes fields off the front of a payload. After the first field that
// does not fit, every further one is zero and done reports the error.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return make([]byte, n)
	}
	part := d.b[:n:n]
	d.b = d.b[n:]
	return part
}

func (d *decoder) u8() uint8                { return d.take(1)[0] }
func (d *decoder) u16() uint16              { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32              { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) time() time.Time          { return time.UnixMilli(int64(binary.BigEndian.Uint64(d.take(8)))) }
func (d *decoder) id() (p sallyport.PeerID) { copy(p[:], d.take(len(p))); return p }

func (d *decoder) require(ok bool) {
	if !ok {
		d.bad = true
	}
}

func (d *decoder) addr() netip.AddrPort {
	size := 4
	switch d.u8() {
	case 4:
	case 6:
		size = 16
	default:
		d.bad = true
	}
	port := d.u16()
	ip, _ := netip.AddrFromSlice(d.take(size))
	d.require(!ip.Is4In6())
	return netip.AddrPortFrom(ip, port)
}

func (d *decoder) addrs() []netip.AddrPort {
	n := int(d.u8())
	d.require(n <= MaxAddrs)
	var out []netip.AddrPort
	for i := 0; i < n && !d.bad; i++ {
		out = append(out, d.addr())
	}
	return out
}

func (d *decoder) bytes(limit int) []byte {
	n := int(d.u8())
	d.require(n <= limit)
	if d.bad {
		return nil
	}
	return d.take(n)
}

func (d *decoder) text(limit int) string {
	s := string(d.bytes(limit))
	d.require(utf8.ValidString(s))
	return s
}

func (d *decoder) rest(least, most int) []byte {
	d.require(len(d.b) >= least && len(d.b) <= most)
	if d.bad {
		return nil
	}
	return d.take(len(d.b))
}

func (d *decoder) done(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%s: %w", what, errMalformed)
	}
	return nil
}
