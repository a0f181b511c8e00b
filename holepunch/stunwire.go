package holepunch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// STUN as far as a Binding client needs it (RFC 8489 sections 5 and 14, RFC 5780 section 7).
//
//	 0                   1                   2                   3
//	+------------------------------+-------------------------------+
//	| 0 0 | message type           | length of what follows byte 20|
//	+------------------------------+-------------------------------+
//	| magic cookie 0x2112A442                                      |
//	+--------------------------------------------------------------+
//	| transaction ID, 12 bytes                                     |
//	+--------------------------------------------------------------+
//	| attributes: type(2) length(2) value, padded to 4 bytes       |
const (
	stunHeader    = 20
	stunCookie    = 0x2112A442
	stunRequest   = 0x0001
	stunSuccess   = 0x0101
	stunFailure   = 0x0111
	fingerprintOr = 0x5354554e

	attrMappedAddress    = 0x0001
	attrChangeRequest    = 0x0003
	attrIntegrity        = 0x0008
	attrErrorCode        = 0x0009
	attrUnknown          = 0x000a
	attrIntegritySHA256  = 0x001c
	attrXORMappedAddress = 0x0020
	attrFingerprint      = 0x8028
	attrResponseOrigin   = 0x802b
	attrOtherAddress     = 0x802c
)

// A TransactionID matches a STUN response to its request.
type TransactionID [12]byte

// A Change asks a STUN server to answer from elsewhere (CHANGE-REQUEST, RFC 5780
// section 7.2): what filtering tests are made of.
type Change uint8

// The two bits of CHANGE-REQUEST.
const (
	ChangePort Change = 0x02
	ChangeIP   Change = 0x04
)

// AppendBindingRequest appends a Binding request: 20 bytes, or 28 with a change.
func AppendBindingRequest(b []byte, id TransactionID, change Change) []byte {
	size := uint16(0)
	if change != 0 {
		size = 8
	}
	b = binary.BigEndian.AppendUint16(b, stunRequest)
	b = binary.BigEndian.AppendUint16(b, size)
	b = binary.BigEndian.AppendUint32(b, stunCookie)
	b = append(b, id[:]...)
	if change != 0 {
		b = append(b, 0, attrChangeRequest, 0, 4, 0, 0, 0, byte(change))
	}
	return b
}

// A BindingResponse is what a server said. Addresses that it did not give are not valid.
type BindingResponse struct {
	ID     TransactionID
	Mapped netip.AddrPort // where it saw the request come from; always given without an error
	Origin netip.AddrPort // RESPONSE-ORIGIN: where it sent this from
	Other  netip.AddrPort // OTHER-ADDRESS: its alternate address and port
	Code   int            // of an error response: 300 to 699; 0: success
	Reason string
}

// ParseBindingResponse parses a success or error response to a Binding request.
// Anything else, or a message that breaks a rule of RFC 8489, is ErrMalformed. Nothing
// in it is authenticated: the transaction ID is all that tells it from a forgery.
func ParseBindingResponse(b []byte) (BindingResponse, error) {
	var r BindingResponse
	if len(b) < stunHeader || len(b) != stunHeader+int(binary.BigEndian.Uint16(b[2:])) || len(b)%4 != 0 {
		return r, fmt.Errorf("%w: STUN message of %d bytes", ErrMalformed, len(b))
	}
	typ := binary.BigEndian.Uint16(b)
	if binary.BigEndian.Uint32(b[4:]) != stunCookie || (typ != stunSuccess && typ != stunFailure) {
		return r, fmt.Errorf("%w: STUN type %#04x is not a Binding response", ErrMalformed, typ)
	}
	copy(r.ID[:], b[8:])
	if err := r.attributes(b); err != nil {
		return BindingResponse{}, err
	}
	if typ == stunSuccess && (r.Code != 0 || !r.Mapped.IsValid()) {
		return BindingResponse{}, fmt.Errorf("%w: STUN success without an address", ErrMalformed)
	}
	if typ == stunFailure && r.Code == 0 {
		return BindingResponse{}, fmt.Errorf("%w: STUN error without a code", ErrMalformed)
	}
	return r, nil
}

// attributes walks the attributes of the whole message b.
func (r *BindingResponse) attributes(b []byte) error {
	sealed := false // behind MESSAGE-INTEGRITY only another one and FINGERPRINT may stand
	for at := stunHeader; at < len(b); {
		if len(b)-at < 4 {
			return fmt.Errorf("%w: STUN attribute cut short", ErrMalformed)
		}
		typ, size := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+2:]))
		end := at + 4 + (size+3)&^3
		if end > len(b) {
			return fmt.Errorf("%w: STUN attribute %#04x of %d bytes cut short", ErrMalformed, typ, size)
		}
		integrity := typ == attrIntegrity || typ == attrIntegritySHA256
		if sealed && !integrity && typ != attrFingerprint {
			return fmt.Errorf("%w: STUN attribute %#04x behind MESSAGE-INTEGRITY", ErrMalformed, typ)
		}
		sealed = sealed || integrity
		if typ == attrFingerprint {
			return checkFingerprint(b, at, size)
		}
		if err := r.attribute(typ, b[at+4:at+4+size], b[4:stunHeader]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// attribute takes one value; mask is cookie and transaction ID.
func (r *BindingResponse) attribute(typ uint16, v, mask []byte) (err error) {
	switch typ {
	case attrXORMappedAddress:
		r.Mapped, err = parseSTUNAddress(v, mask)
	case attrMappedAddress:
		// Sent beside the other by old servers, and rewritten by some NATs: only a fallback.
		var plain netip.AddrPort
		if plain, err = parseSTUNAddress(v, nil); !r.Mapped.IsValid() {
			r.Mapped = plain
		}
	case attrResponseOrigin:
		r.Origin, err = parseSTUNAddress(v, nil)
	case attrOtherAddress:
		r.Other, err = parseSTUNAddress(v, nil)
	case attrErrorCode:
		err = r.errorCode(v)
	case attrIntegrity, attrIntegritySHA256, attrUnknown: // we share no key with the server
	case 0x0004, 0x0005, 0x0006, 0x0014, 0x0015, 0x001d, 0x001e: // RFC 3489's addresses, USERNAME, REALM, NONCE, …: of no use to us
	default:
		if typ < 0x8000 { // "the response is discarded", RFC 8489 section 6.3.3
			err = fmt.Errorf("%w: STUN attribute %#04x must be understood", ErrMalformed, typ)
		}
	}
	return err
}

func (r *BindingResponse) errorCode(v []byte) error {
	if len(v) < 4 || len(v) > 4+763 || v[2]&7 < 3 || v[2]&7 > 6 || v[3] > 99 {
		return fmt.Errorf("%w: STUN error code", ErrMalformed)
	}
	r.Code, r.Reason = int(v[2]&7)*100+int(v[3]), string(v[4:])
	return nil
}

// parseSTUNAddress parses an address attribute (RFC 8489 section 14.1), XORed with mask
// (section 14.2) unless that is nil.
func parseSTUNAddress(v, mask []byte) (netip.AddrPort, error) {
	if len(v) != 8 && len(v) != 20 || v[1] != 1 && v[1] != 2 || (v[1] == 1) != (len(v) == 8) {
		return netip.AddrPort{}, fmt.Errorf("%w: STUN address of %d bytes", ErrMalformed, len(v))
	}
	port, raw := binary.BigEndian.Uint16(v[2:]), [16]byte{}
	n := copy(raw[:], v[4:])
	if mask != nil {
		port ^= binary.BigEndian.Uint16(mask)
		for i := range n {
			raw[i] ^= mask[i]
		}
	}
	addr, _ := netip.AddrFromSlice(raw[:n])
	return netip.AddrPortFrom(addr.Unmap(), port), nil
}

// checkFingerprint: it is the last attribute, and the CRC-32 of what is in front of it
// XORed with 0x5354554e (RFC 8489 section 14.7).
func checkFingerprint(b []byte, at, size int) error {
	if size != 4 || at+8 != len(b) || binary.BigEndian.Uint32(b[at+4:]) != crc32.ChecksumIEEE(b[:at])^fingerprintOr {
		return fmt.Errorf("%w: STUN fingerprint", ErrMalformed)
	}
	return nil
}
