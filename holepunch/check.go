package holepunch

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// A Tag is the cleartext name of one direction of one session: what a host with
// many sessions on one socket looks inbound checks up by.
type Tag [8]byte

// CheckSize is the size of every check in bytes. A pong is as long as a ping, so
// that nobody can use the answer to amplify.
const CheckSize = checkHeader + checkNonce + checkBody + checkMAC

const (
	checkHeader = 1 + 8
	checkNonce  = 12
	checkBody   = 40
	checkMAC    = 16
)

// Check layout, 77 bytes, numbers big-endian. The nonce is random rather than the
// counter: a callee that restarts and is handed the same offer again must not seal two
// checks under one nonce.
//
//	 0       1               9                 21                        61            77
//	+-------+---------------+-----------------+-------------------------+-------------+
//	| 0x21  | receiver Tag  | random nonce    | AES-256-GCM body        | GCM tag     |
//	+-------+---------------+-----------------+-------------------------+-------------+
//	|<-- additional data -->|
//
//	body:
//	 0      1      2       4          12              20                36       38     40
//	+------+------+-------+----------+---------------+-----------------+--------+------+
//	| type | 0    | flags | counter  | transaction   | observed IP     | port   | 0    |
//	+------+------+-------+----------+---------------+-----------------+--------+------+
//
// Counter: one sequence for all checks of a direction, from 1, each used once.
// Transaction: random in a ping, the same in its pong. Observed: in a pong the
// source of the ping (IPv4 as ::ffff:a.b.c.d), in a ping zero. Unknown flags are ignored.
type check struct {
	typ      checkType
	flags    checkFlags
	counter  uint64
	txid     uint64
	observed netip.AddrPort
}

type checkType uint8

const (
	ping checkType = 1 + iota
	pong
)

type checkFlags uint16

const (
	// flagRelayed: the sender sent this from a relay allocation, so what looks like a
	// peer-reflexive address is a relayed one.
	flagRelayed checkFlags = 1 << iota
	// flagConfirmed: the sender's own checks over this path are answered.
	flagConfirmed
	// flagUnanswered: they were, and are not any more. What the receiver sends over this
	// path does not arrive, although this does.
	flagUnanswered
)

// CheckTag reads the tag of a packet that looks like a check, and whether it does.
// Nothing is authenticated yet.
func CheckTag(b []byte) (Tag, bool) {
	if len(b) != CheckSize || b[0] != packet.CheckByte {
		return Tag{}, false
	}
	return Tag(b[1:checkHeader]), true
}

// appendBody appends the 40 bytes that are sealed.
func (c check) appendBody(b []byte) []byte {
	b = append(b, byte(c.typ), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(c.flags))
	b = binary.BigEndian.AppendUint64(b, c.counter)
	b = binary.BigEndian.AppendUint64(b, c.txid)
	var ip [16]byte
	if c.observed.IsValid() {
		ip = c.observed.Addr().As16()
	}
	b = append(b, ip[:]...)
	b = binary.BigEndian.AppendUint16(b, c.observed.Port())
	return append(b, 0, 0)
}

// parseCheckBody is the inverse of appendBody: what it accepts encodes to the same bytes.
func parseCheckBody(b []byte) (check, error) {
	if len(b) != checkBody {
		return check{}, fmt.Errorf("%w: check body of %d bytes", ErrMalformed, len(b))
	}
	c := check{
		typ:     checkType(b[0]),
		flags:   checkFlags(binary.BigEndian.Uint16(b[2:])),
		counter: binary.BigEndian.Uint64(b[4:]),
		txid:    binary.BigEndian.Uint64(b[12:]),
	}
	ip, port := netip.AddrFrom16([16]byte(b[20:36])), binary.BigEndian.Uint16(b[36:])
	switch {
	case b[1] != 0 || b[38] != 0 || b[39] != 0:
		return check{}, fmt.Errorf("%w: check with reserved bytes set", ErrMalformed)
	case c.typ == ping && ip == netip.IPv6Unspecified() && port == 0:
		return c, nil
	case c.typ == pong && ip != netip.IPv6Unspecified():
		c.observed = netip.AddrPortFrom(ip.Unmap(), port)
		return c, nil
	}
	return check{}, fmt.Errorf("%w: check of type %d about %v", ErrMalformed, c.typ, ip)
}

// checkKeys seals our checks and opens the peer's. Each direction has its own key,
// so that a reflected check never verifies.
type checkKeys struct {
	out, in       cipher.AEAD // with a random nonce in front
	outTag, inTag Tag
}

// newCheckKeys derives both directions from the offer's secret alone: the callee can
// check, and the caller verify, before the answer arrived.
func newCheckKeys(secret [32]byte, caller bool) checkKeys {
	aead1, tag1 := deriveDirection(secret, "caller to callee")
	aead2, tag2 := deriveDirection(secret, "callee to caller")
	if caller {
		return checkKeys{out: aead1, outTag: tag1, in: aead2, inTag: tag2}
	}
	return checkKeys{out: aead2, outTag: tag2, in: aead1, inTag: tag1}
}

func deriveDirection(secret [32]byte, direction string) (cipher.AEAD, Tag) {
	okm, err := hkdf.Key(sha256.New, secret[:], nil, "sallyport check v1 "+direction, 32+8)
	if err != nil {
		panic("holepunch: hkdf: " + err.Error()) // only for lengths over 8,160 bytes
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		panic("holepunch: aes: " + err.Error()) // only for wrong key sizes
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("holepunch: gcm: " + err.Error()) // only for block sizes other than 16
	}
	return aead, Tag(okm[32:])
}

// seal appends c as a packet of CheckSize bytes.
func (k *checkKeys) seal(b []byte, c check) []byte {
	start := len(b)
	b = append(b, packet.CheckByte)
	b = append(b, k.outTag[:]...)
	var body [checkBody]byte
	return k.out.Seal(b, nil, c.appendBody(body[:0]), b[start:start+checkHeader])
}

// open authenticates and parses a packet.
func (k *checkKeys) open(b []byte) (check, error) {
	tag, ok := CheckTag(b)
	switch {
	case !ok:
		return check{}, fmt.Errorf("%w: not a check", ErrMalformed)
	case tag != k.inTag:
		return check{}, fmt.Errorf("%w: check with the tag of another session", ErrForged)
	}
	var space [checkBody]byte
	body, err := k.in.Open(space[:0], nil, b[checkHeader:], b[:checkHeader])
	if err != nil {
		return check{}, fmt.Errorf("%w: check", ErrForged)
	}
	return parseCheckBody(body)
}
