package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The bounds put on a message, and the constant of its fingerprint.
const (
	stunAttrHeaderLen = 4
	stunMaxAttrs      = 64
	stunFingerprint   = 0x5354554e // XORed into the CRC-32 (RFC 8489 §14.7)
)

// Attribute types that [ValidSTUN] looks into (RFC 8489 §18.3, RFC 8656 §18, RFC 5780 §7).
const (
	attrMappedAddress    = 0x0001
	attrChangeRequest    = 0x0003
	attrSourceAddress    = 0x0004
	attrChangedAddress   = 0x0005
	attrUsername         = 0x0006
	attrIntegrity        = 0x0008
	attrErrorCode        = 0x0009
	attrUnknownAttrs     = 0x000A
	attrChannelNumber    = 0x000C
	attrLifetime         = 0x000D
	attrXORPeerAddress   = 0x0012
	attrRealm            = 0x0014
	attrNonce            = 0x0015
	attrXORRelayed       = 0x0016
	attrAddressFamily    = 0x0017
	attrEvenPort         = 0x0018
	attrTransport        = 0x0019
	attrDontFragment     = 0x001A
	attrIntegritySHA256  = 0x001C
	attrXORMapped        = 0x0020
	attrReservationToken = 0x0022
	attrPriority         = 0x0024
	attrUseCandidate     = 0x0025
	attrResponsePort     = 0x0027
	attrConnectionID     = 0x002A
	attrXORMappedOld     = 0x8020
	attrSoftware         = 0x8022
	attrAlternateServer  = 0x8023
	attrCRC              = 0x8028
	attrICEControlled    = 0x8029
	attrICEControlling   = 0x802A
	attrResponseOrigin   = 0x802B
	attrOtherAddress     = 0x802C
)

// What [ValidSTUN] and [ParseChannelData] find wrong; each comes wrapped with the place.
var (
	ErrSTUNHeader      = errors.New("not a STUN message")
	ErrSTUNLength      = errors.New("STUN length field does not match the datagram")
	ErrSTUNAttribute   = errors.New("malformed STUN attribute")
	ErrSTUNOrder       = errors.New("STUN attribute after the integrity or fingerprint")
	ErrSTUNFingerprint = errors.New("wrong STUN fingerprint")
	ErrChannelData     = errors.New("malformed ChannelData message")
)

// attrLens holds the lengths, in bytes and inclusive, that a known attribute's value may have.
// The texts are bounded as RFC 8489 §14.3, §14.9, §14.10 and §14.14 bound them.
var attrLens = map[uint16][2]int{
	attrChangeRequest:    {4, 4},
	attrUsername:         {1, 512},
	attrIntegrity:        {20, 20},
	attrErrorCode:        {4, 767},
	attrUnknownAttrs:     {0, 2 * stunMaxAttrs},
	attrChannelNumber:    {4, 4},
	attrLifetime:         {4, 4},
	attrRealm:            {0, 763},
	attrNonce:            {0, 763},
	attrAddressFamily:    {4, 4},
	attrEvenPort:         {1, 1},
	attrTransport:        {4, 4},
	attrDontFragment:     {0, 0},
	attrIntegritySHA256:  {16, 32},
	attrReservationToken: {8, 8},
	attrPriority:         {4, 4},
	attrUseCandidate:     {0, 0},
	attrResponsePort:     {4, 4},
	attrConnectionID:     {4, 4},
	attrSoftware:         {0, 763},
	attrCRC:              {4, 4},
	attrICEControlled:    {8, 8},
	attrICEControlling:   {8, 8},
}

// ValidSTUN says whether b is one whole STUN message (RFC 8489 §5) that a decoder may be shown:
// the length field matches the datagram, every attribute lies within it, at most 64 of them,
// attributes with a fixed layout have it, addresses are of 8 or 20 bytes with the family that
// belongs to that length, nothing follows MESSAGE-INTEGRITY but FINGERPRINT and nothing follows
// that, and a FINGERPRINT is right. It does not authenticate and knows nothing of methods.
// The error wraps one of the ErrSTUN… of this package. It allocates nothing for a valid message.
func ValidSTUN(b []byte) error {
	if len(b) < stunHeaderSize || b[0] > 3 || binary.BigEndian.Uint32(b[4:8]) != stunMagicCookie {
		return ErrSTUNHeader
	}
	size := int(binary.BigEndian.Uint16(b[2:4]))
	if size%4 != 0 || len(b) != stunHeaderSize+size {
		return ErrSTUNLength
	}
	var last uint16 // the integrity or fingerprint attribute already seen, if any
	count := 0
	for off := stunHeaderSize; off < len(b); count++ {
		typ, value, next, err := stunAttr(b, off)
		if err != nil {
			return err
		}
		if count == stunMaxAttrs {
			return fmt.Errorf("%w: more than %d attributes", ErrSTUNAttribute, stunMaxAttrs)
		}
		if last != 0 && (last == attrCRC || typ != attrCRC) {
			return ErrSTUNOrder
		}
		if typ == attrCRC && binary.BigEndian.Uint32(value) != crc32.ChecksumIEEE(b[:off])^stunFingerprint {
			return ErrSTUNFingerprint
		}
		if typ == attrIntegrity || typ == attrIntegritySHA256 || typ == attrCRC {
			last = typ
		}
		off = next
	}
	return nil
}

// stunAttr reads the attribute at off and checks its layout. next is where the one after it starts.
func stunAttr(b []byte, off int) (typ uint16, value []byte, next int, err error) {
	if len(b)-off < stunAttrHeaderLen {
		return 0, nil, 0, fmt.Errorf("%w: header cut off", ErrSTUNAttribute)
	}
	typ = binary.BigEndian.Uint16(b[off:])
	n := int(binary.BigEndian.Uint16(b[off+2:]))
	start := off + stunAttrHeaderLen
	next = start + (n+3)&^3 // "padded to a multiple of 4 bytes" (RFC 8489 §14)
	if next > len(b) {
		return 0, nil, 0, fmt.Errorf("%w: %#04x runs past the end", ErrSTUNAttribute, typ)
	}
	value = b[start : start+n]
	if !stunAttrLayout(typ, value) {
		return 0, nil, 0, fmt.Errorf("%w: %#04x of %d bytes", ErrSTUNAttribute, typ, n)
	}
	return typ, value, next, nil
}

// stunAttrLayout says whether value has a layout that attribute typ may have; unknown ones may have any.
func stunAttrLayout(typ uint16, value []byte) bool {
	switch typ {
	case attrMappedAddress, attrSourceAddress, attrChangedAddress, attrXORPeerAddress, attrXORRelayed,
		attrXORMapped, attrXORMappedOld, attrAlternateServer, attrResponseOrigin, attrOtherAddress:
		return len(value) == 8 && value[1] == 1 || len(value) == 20 && value[1] == 2
	case attrUnknownAttrs:
		if len(value)%2 != 0 {
			return false
		}
	case attrIntegritySHA256:
		if len(value)%4 != 0 {
			return false
		}
	}
	lens, known := attrLens[typ]
	return !known || len(value) >= lens[0] && len(value) <= lens[1]
}

// ChannelDataHeaderLen is what a ChannelData message adds to its payload, in bytes (RFC 8656 §12.4).
const ChannelDataHeaderLen = channelHeader

// AppendChannelData appends a ChannelData message (RFC 8656 §12.4) without padding: over UDP
// "the padding … is not required" (§12.5). payload must be shorter than 65,536 bytes.
func AppendChannelData(dst []byte, channel uint16, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, channel)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	return append(dst, payload...)
}

// ParseChannelData reads a ChannelData message (RFC 8656 §12.4) that fills a whole datagram.
// Channels 0x4000 to 0x4FFF are RFC 8656's; those up to 0x7FFF, which RFC 5766 allowed, are read
// too. Up to three bytes of padding are accepted. payload aliases b.
func ParseChannelData(b []byte) (channel uint16, payload []byte, err error) {
	if len(b) < ChannelDataHeaderLen || b[0] < 0x40 || b[0] > 0x7f {
		return 0, nil, ErrChannelData
	}
	n := int(binary.BigEndian.Uint16(b[2:4]))
	if extra := len(b) - ChannelDataHeaderLen - n; extra < 0 || extra > 3 {
		return 0, nil, ErrChannelData
	}
	return binary.BigEndian.Uint16(b), b[ChannelDataHeaderLen : ChannelDataHeaderLen+n], nil
}
