package relay

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// Numbers of RFC 8656 that pion/stun does not export.
const (
	familyIPv4   = 1
	familyIPv6   = 2
	protocolUDP  = 17
	firstChannel = 0x4000 // "0x4000 through 0x4FFF: These values are the allowed channel numbers" (§12)
	lastChannel  = 0x4FFF
	magicCookie  = 0x2112A442
)

// raw makes an attribute of plain bytes.
func raw(typ stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: typ, Value: value}
}

// peerAttr is an XOR-PEER-ADDRESS attribute (RFC 8656 §18.3).
type peerAttr netip.AddrPort

func (p peerAttr) AddTo(m *stun.Message) error {
	var b [24]byte
	attr := appendXORAddress(b[:0], stun.AttrXORPeerAddress, netip.AddrPort(p), m.TransactionID)
	m.Add(stun.AttrXORPeerAddress, attr[4:])
	return nil
}

// appendXORAddress appends a whole attribute of XOR-MAPPED-ADDRESS's form (RFC 8489 §14.2).
func appendXORAddress(dst []byte, typ stun.AttrType, addr netip.AddrPort, id [12]byte) []byte {
	ip, family, size := addr.Addr().Unmap(), byte(familyIPv4), 8
	if ip.Is6() {
		family, size = familyIPv6, 20
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(typ))
	dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	dst = append(dst, 0, family)
	dst = binary.BigEndian.AppendUint16(dst, addr.Port()^magicCookie>>16)
	start := len(dst)
	dst = append(dst, ip.AsSlice()...)
	xorAddress(dst[start:], id)
	return dst
}

// readXORAddress reads the first attribute typ of m; ok is false where it is missing or malformed.
func readXORAddress(m *stun.Message, typ stun.AttrType) (addr netip.AddrPort, ok bool) {
	value, err := m.Get(typ)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return parseXORAddress(value, m.TransactionID)
}

func parseXORAddress(value []byte, id [12]byte) (addr netip.AddrPort, ok bool) {
	if len(value) != 8 && len(value) != 20 {
		return netip.AddrPort{}, false
	}
	var b [16]byte
	n := copy(b[:], value[4:])
	xorAddress(b[:n], id)
	ip, ok := netip.AddrFromSlice(b[:n])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(value[2:])^magicCookie>>16), ok
}

// xorAddress XORs an address with the magic cookie and the transaction ID.
func xorAddress(ip []byte, id [12]byte) {
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], magicCookie)
	copy(mask[4:], id[:])
	for i := range ip {
		ip[i] ^= mask[i]
	}
}

// appendSend appends a Send indication (RFC 8656 §11.1). payload must fit a UDP datagram.
func appendSend(dst []byte, id [12]byte, peer netip.AddrPort, payload []byte) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, stun.NewType(stun.MethodSend, stun.ClassIndication).Value())
	dst = append(dst, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, magicCookie)
	dst = append(dst, id[:]...)
	dst = appendXORAddress(dst, stun.AttrXORPeerAddress, peer, id)
	dst = binary.BigEndian.AppendUint16(dst, uint16(stun.AttrData))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	dst = append(dst, payload...)
	for len(dst[start:])%4 != 0 {
		dst = append(dst, 0)
	}
	binary.BigEndian.PutUint16(dst[start+2:], uint16(len(dst)-start-20))
	return dst
}

// decode copies and decodes a STUN message that passed the filter.
func decode(b []byte) (*stun.Message, error) {
	if err := packet.ValidSTUN(b); err != nil {
		return nil, err
	}
	m := new(stun.Message)
	if err := stun.Decode(b, m); err != nil {
		return nil, err
	}
	return m, nil
}

// response turns an error response into an [*Error]; nil for a success response.
func response(m *stun.Message) error {
	if m.Type.Class != stun.ClassErrorResponse {
		return nil
	}
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil {
		return &Error{Method: m.Type.Method.String(), Reason: "no error code"}
	}
	return &Error{Method: m.Type.Method.String(), Code: int(code.Code), Reason: string(code.Reason)}
}
