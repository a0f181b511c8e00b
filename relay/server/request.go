package server

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// Error codes this package sends itself (RFC 8656 §19, RFC 8489 §14.8).
const (
	codeBadRequest     = int(stun.CodeBadRequest)
	codeForbidden      = int(stun.CodeForbidden)
	codeMismatch       = int(stun.CodeAllocMismatch)
	codeBadFamily      = int(stun.CodeAddrFamilyNotSupported)
	codeWrongUser      = int(stun.CodeWrongCredentials)
	codeBadTransport   = int(stun.CodeUnsupportedTransProto)
	codeQuota          = int(stun.CodeAllocQuotaReached)
	codeCapacity       = int(stun.CodeInsufficientCapacity)
	maxAmplification   = 3  // bytes of answer per byte of an unauthenticated request
	maxNonce           = 64 // ours have 24; a longer one cannot be ours and is costly to look at
	responseClassBit   = 0x01
	firstNonSTUNByte   = 0x04
	lastChannelByte    = 0x7f
	firstChannelByte   = 0x40
	requestedIPv6      = 0x02 // RFC 8656 §18.8
	firstChannel       = 0x4000
	lastChannel        = 0x7fff // RFC 8656 ends at 0x4fff; clients of RFC 5766, coturn's too, use them all
	stunHeaderSize     = 20
	maxDatagram        = 2048
	channelDataHeadLen = packet.ChannelDataHeaderLen
)

// request is the STUN request that pion is working on; it lives from one ReadFrom of the
// listening socket to the next, and only the goroutine between them touches it.
type request struct {
	src      netip.AddrPort
	raw      []byte
	typ      stun.MessageType
	id       [stun.TransactionIDSize]byte
	paid     bool                  // its answer was already granted by the limiter
	key      stun.MessageIntegrity // set once it is authenticated
	user     string
	channel  uint16 // of a ChannelBind; 0: none
	ipv6     bool   // an IPv6 relayed address is asked for
	code     int    // the code its error response must have, where pion chooses another; 0: pion's
	slot     *slot  // counted, not yet owned by an allocation
	answered bool
}

// inspect reads what the filter needs of a STUN message that [packet.ValidSTUN] passed.
func inspect(b []byte, src netip.AddrPort) (r request, hasIntegrity bool, sane bool) {
	m := stun.Message{Raw: b}
	if m.Decode() != nil {
		return request{}, false, false
	}
	nonce, _ := m.Get(stun.AttrNonce)
	r = request{src: src, raw: b, typ: m.Type, id: m.TransactionID}
	if number, err := m.Get(stun.AttrChannelNumber); err == nil && m.Type.Method == stun.MethodChannelBind {
		r.channel = binary.BigEndian.Uint16(number) // of 4 bytes, says the filter
	}
	if f, err := m.Get(stun.AttrRequestedAddressFamily); err == nil {
		r.ipv6 = f[0] == requestedIPv6
	}
	return r, m.Contains(stun.AttrMessageIntegrity), len(nonce) <= maxNonce && served(m.Type)
}

// served are the messages a TURN server takes over UDP (RFC 8656 §5).
func served(t stun.MessageType) bool {
	switch t.Class {
	case stun.ClassIndication:
		return t.Method == stun.MethodSend
	case stun.ClassRequest:
		switch t.Method {
		case stun.MethodBinding, stun.MethodAllocate, stun.MethodRefresh,
			stun.MethodCreatePermission, stun.MethodChannelBind:
			return true
		}
	}
	return false
}
