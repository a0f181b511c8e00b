package holepunch

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Inner layout of the signalled messages, version 1, numbers big-endian. It is what
// the signature covers, sealed behind the 64 bytes of that signature.
//
//	offer:      version(1) flags(2) nonce(16) secret(32) created(8, Unix ms) nodeRTT(4, µs) candidates flight
//	answer:     version(1) flags(2) nonce(16) nodeRTT(4, µs) candidates flight
//	update:     version(1) nonce(16) candidates flight
//	candidates: count(1, ≤ 32), each: kind(1) family(1: 4 or 6) address(4 or 16) port(2) [length(1, ≤ 32) relay name, Relayed only]
//	flight:     count(1, ≤ 8), each: length(2, 1 to 1500) datagram
//
// Nothing may follow.
const wireVersion = 1

func appendOffer(b []byte, o *Offer) ([]byte, error) {
	b = append(b, wireVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(o.Flags))
	b = append(b, o.Nonce[:]...)
	b = append(b, o.Secret[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Created.UnixMilli()))
	b = appendRTT(b, o.NodeRTT)
	return appendParts(b, o.Candidates, o.Flight)
}

func appendAnswer(b []byte, nonce Nonce, a *Answer) ([]byte, error) {
	b = append(b, wireVersion)
	b = binary.BigEndian.AppendUint16(b, uint16(a.Flags))
	b = append(b, nonce[:]...)
	b = appendRTT(b, a.NodeRTT)
	return appendParts(b, a.Candidates, a.Flight)
}

func appendUpdate(b []byte, nonce Nonce, u *Update) ([]byte, error) {
	b = append(b, wireVersion)
	b = append(b, nonce[:]...)
	return appendParts(b, u.Candidates, u.Flight)
}

func appendRTT(b []byte, d time.Duration) []byte {
	us := min(max(d.Microseconds(), 0), math.MaxUint32)
	return binary.BigEndian.AppendUint32(b, uint32(us))
}

func appendParts(b []byte, cands []Candidate, flight [][]byte) ([]byte, error) {
	if len(cands) > MaxCandidates || len(flight) > MaxFlight {
		return nil, fmt.Errorf("%w: %d candidates (at most %d), %d datagrams (at most %d)",
			ErrMalformed, len(cands), MaxCandidates, len(flight), MaxFlight)
	}
	b = append(b, byte(len(cands)))
	for _, c := range cands {
		if err := c.validate(); err != nil {
			return nil, err
		}
		b = appendCandidate(b, c)
	}
	b = append(b, byte(len(flight)))
	for _, d := range flight {
		if len(d) == 0 || len(d) > MaxDatagram {
			return nil, fmt.Errorf("%w: datagram of %d bytes", ErrMalformed, len(d))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(d)))
		b = append(b, d...)
	}
	return b, nil
}

func appendCandidate(b []byte, c Candidate) []byte {
	b = append(b, byte(c.Kind))
	addr := c.Addr.Addr().Unmap().WithZone("")
	if addr.Is4() {
		b = append(b, 4)
	} else {
		b = append(b, 6)
	}
	b = append(b, addr.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, c.Addr.Port())
	if c.Kind == Relayed {
		b = append(b, byte(len(c.Via)))
		b = append(b, c.Via...)
	}
	return b
}

func parseOffer(b []byte) (*Offer, error) {
	r := reader{b: b}
	r.version()
	o := &Offer{Flags: OfferFlags(r.uint16())}
	copy(o.Nonce[:], r.take(len(o.Nonce)))
	copy(o.Secret[:], r.take(len(o.Secret)))
	o.Created = time.UnixMilli(int64(r.uint64()))
	o.NodeRTT = r.rtt()
	o.Candidates, o.Flight = r.candidates(), r.flight()
	return o, r.end()
}

func parseAnswer(b []byte, want Nonce) (*Answer, error) {
	r := reader{b: b}
	r.version()
	a := &Answer{Flags: OfferFlags(r.uint16())}
	r.nonce(want)
	a.NodeRTT = r.rtt()
	a.Candidates, a.Flight = r.candidates(), r.flight()
	return a, r.end()
}

func parseUpdate(b []byte, want Nonce) (*Update, error) {
	r := reader{b: b}
	r.version()
	r.nonce(want)
	u := &Update{Candidates: r.candidates(), Flight: r.flight()}
	return u, r.end()
}

// reader takes fields off the front of b. The first failure sticks and empties b,
// so that callers look at the error once, at the end.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	r.b = nil
}

// take returns the next n bytes, or n zero bytes after a failure.
func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.fail("cut short")
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint8() int     { return int(r.take(1)[0]) }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) rtt() time.Duration {
	return time.Duration(binary.BigEndian.Uint32(r.take(4))) * time.Microsecond
}

func (r *reader) version() {
	if v := r.uint8(); v != wireVersion {
		r.fail("version %d, only %d is known", v, wireVersion)
	}
}

func (r *reader) nonce(want Nonce) {
	got := Nonce(r.take(len(want)))
	if r.err == nil && got != want {
		r.err, r.b = ErrOtherOffer, nil
	}
}

func (r *reader) candidates() []Candidate {
	n := r.uint8()
	if n > MaxCandidates {
		r.fail("%d candidates, at most %d", n, MaxCandidates)
	}
	var cands []Candidate
	for i := 0; i < n && r.err == nil; i++ {
		c := r.candidate()
		if err := c.validate(); err != nil && r.err == nil {
			r.err, r.b = err, nil
		}
		cands = append(cands, c)
	}
	return cands
}

func (r *reader) candidate() Candidate {
	c := Candidate{Kind: Kind(r.uint8())}
	var addr netip.Addr
	switch family := r.uint8(); family {
	case 4:
		addr = netip.AddrFrom4([4]byte(r.take(4)))
	case 6:
		addr = netip.AddrFrom16([16]byte(r.take(16)))
		if addr.Is4In6() {
			r.fail("IPv4-mapped address %v", addr)
		}
	default:
		r.fail("address family %d", family)
	}
	c.Addr = netip.AddrPortFrom(addr, r.uint16())
	if c.Kind == Relayed {
		c.Via = string(r.take(r.uint8()))
	}
	return c
}

func (r *reader) flight() [][]byte {
	n := r.uint8()
	if n > MaxFlight {
		r.fail("%d datagrams, at most %d", n, MaxFlight)
	}
	var flight [][]byte
	for i := 0; i < n && r.err == nil; i++ {
		size := int(r.uint16())
		if size == 0 || size > MaxDatagram {
			r.fail("datagram of %d bytes", size)
		}
		flight = append(flight, r.take(min(size, MaxDatagram)))
	}
	return flight
}

// end reports the first failure, or bytes that are left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}
