// Package packet tells apart what arrives on Sallyport's one UDP socket: STUN,
// TURN channel data, our own connectivity checks and QUIC share it.
//
// [Classify] looks at a datagram and says which it is, following the first
// bytes that RFC 7983 and RFC 9443 set aside for each protocol. [ValidSTUN] is
// the filter that stands in front of every STUN decoder.
//
// The answer is unambiguous for what our own software sends. TURN channel data
// and QUIC's short header both begin with 0x40 to 0x7f (RFC 8656 ends channels at
// 0x4f; clients of RFC 5766, coturn's among them, use them all). Channel data is
// told by a length field that fits the datagram, and no QUIC packet to one of our
// sockets has such a field because its connection ID comes from
// [NewConnectionID]. A stateless reset is random throughout: one in 16,000 is
// lost to this, and another follows. Software that is not ours and sends QUIC
// with other connection IDs would lose one short-header packet in as many.
//
// The package allocates nothing and keeps no state.
package packet

import (
	"crypto/rand"
	"encoding/binary"
)

// Class is what a datagram is.
type Class uint8

const (
	Unknown     Class = iota // none of ours: drop it
	STUN                     // RFC 8489, with its magic cookie
	ChannelData              // RFC 8656 section 12.4
	Check                    // a connectivity check of package holepunch
	QUIC                     // RFC 9000, long or short header
)

// CheckByte is the first byte of holepunch's checks. It lies in the range that
// RFC 7983 gives to DTLS, which we do not speak.
const CheckByte = 0x21

const (
	stunHeaderSize   = 20
	stunMagicCookie  = 0x2112A442
	channelHeader    = 4
	maxChannelPad    = 3
	minQUICSize      = 21 // RFC 9000 section 10.3: the smallest stateless reset
	quicFixedBit     = 0x40
	quicLongHeader   = 0x80
	channelFirstByte = 0x40
	channelLastByte  = 0x7f
)

// Classify says what the datagram b is, from its first bytes alone.
func Classify(b []byte) Class {
	if len(b) == 0 {
		return Unknown
	}
	switch first := b[0]; {
	case first < 4:
		if len(b) >= stunHeaderSize && binary.BigEndian.Uint32(b[4:]) == stunMagicCookie {
			return STUN
		}
	case first == CheckByte:
		return Check
	case first >= channelFirstByte && first <= channelLastByte && isChannelData(b):
		return ChannelData
	case first&quicFixedBit != 0 && (len(b) >= minQUICSize || first&quicLongHeader != 0):
		return QUIC
	case first&quicLongHeader != 0: // version negotiation sets the fixed bit at random
		return QUIC
	}
	return Unknown
}

// isChannelData reports whether the length field fits the datagram; "the
// padding ... is not reflected in the Length field" and "over UDP, the padding
// is not required but MAY be included" (RFC 8656 section 12.5).
func isChannelData(b []byte) bool {
	if len(b) < channelHeader {
		return false
	}
	extra := len(b) - channelHeader - int(binary.BigEndian.Uint16(b[2:]))
	return extra >= 0 && extra <= maxChannelPad
}

// ConnectionIDSize is the length of our QUIC connection IDs in bytes.
const ConnectionIDSize = 8

// NewConnectionID returns a random QUIC connection ID whose second byte is
// 0xff. In a short header that byte stands where channel data keeps the upper
// half of its length: 65,280 bytes and more, which no UDP datagram of ours has.
func NewConnectionID() (id [ConnectionIDSize]byte) {
	rand.Read(id[:]) // never fails, see crypto/rand
	id[1] = 0xff
	return id
}
