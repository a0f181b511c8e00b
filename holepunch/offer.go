package holepunch

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-net/sallyport"
)

// Bounds of a signalled message.
const (
	MaxSealed     = 4096 // bytes of a sealed offer, answer or update
	MaxCandidates = 32   // in one message, and signalled ones in a session
	MaxFlight     = 8    // datagrams in one message
	MaxDatagram   = 1500 // bytes of one of them
)

// A Nonce names an offer. Everything that answers it carries the nonce.
type Nonce [16]byte

// OfferFlags are bits that the caller sets and the callee reads; unknown ones are kept.
type OfferFlags uint16

// An Offer is how a call begins: what the callee needs to check the caller's
// candidates, and the first datagrams of the connection itself.
type Offer struct {
	Caller, Callee sallyport.PeerID // not sent: the node says them, the signature covers them

	Nonce      Nonce
	Secret     [32]byte  // the key of the checks in both directions
	Created    time.Time // to the millisecond; informative only: clocks may be a day off
	NodeRTT    time.Duration
	Flags      OfferFlags
	Candidates []Candidate // at most MaxCandidates
	Flight     [][]byte    // at most MaxFlight, each at most MaxDatagram bytes
}

// An Answer is the callee's reply to one offer.
type Answer struct {
	NodeRTT    time.Duration
	Flags      OfferFlags
	Candidates []Candidate
	Flight     [][]byte
}

// An Update is what either side adds later to a call: candidates that took longer
// to gather, or datagrams while no path is open yet. Repeated opening is harmless, so no replay cache is kept.
type Update struct {
	Candidates []Candidate
	Flight     [][]byte
}

// NewOffer returns an offer with a fresh nonce and secret. Each offer is for one call.
func NewOffer(now time.Time, caller, callee sallyport.PeerID) *Offer {
	o := &Offer{Caller: caller, Callee: callee, Created: now.Truncate(time.Millisecond)}
	rand.Read(o.Nonce[:]) // never fails, see crypto/rand
	rand.Read(o.Secret[:])
	return o
}

// A role says what a message is and in which direction it goes; one string each
// for the seal (HPKE's info) and the signature (Ed25519ctx).
type role struct{ name, info, context string }

func newRole(name string) role {
	return role{name, "sallyport " + name + " seal v1", "sallyport " + name + " signature v1"}
}

var (
	roleOffer        = newRole("an offer")
	roleAnswer       = newRole("an answer")
	roleCallerUpdate = newRole("a caller's update")
	roleCalleeUpdate = newRole("a callee's update")
)

const signatureSize = 64

// SealOffer encodes o, signs it as o.Caller, who id must be, and seals it to o.Callee.
// It fails with ErrTooLarge (a *TooLargeError) where the result would exceed MaxSealed bytes, and
// with ErrMalformed for a candidate or datagram that no receiver would accept.
func SealOffer(id *sallyport.Identity, o *Offer) ([]byte, error) {
	if id.PeerID() != o.Caller {
		return nil, fmt.Errorf("sealing an offer: identity %s is not the caller %s", id.PeerID().Short(), o.Caller.Short())
	}
	m, err := appendOffer(nil, o)
	if err != nil {
		return nil, fmt.Errorf("sealing an offer: %w", err)
	}
	return seal(id, o.Callee, roleOffer, m, o.Candidates, o.Flight)
}

// OpenOffer opens and verifies an offer to id. The caller is who the node says it is:
// a wrong one fails with ErrForged, as does an offer to somebody else or one changed on the way.
// Candidates that are not Punchable are dropped. OpenOffer keeps no state: ask a ReplayCache next.
func OpenOffer(id *sallyport.Identity, caller sallyport.PeerID, sealed []byte) (*Offer, error) {
	body, err := open(id, caller, roleOffer, sealed)
	if err != nil {
		return nil, err
	}
	o, err := parseOffer(body)
	if err != nil {
		return nil, fmt.Errorf("opening an offer from %s: %w", caller.Short(), err)
	}
	o.Caller, o.Callee = caller, id.PeerID()
	o.Candidates = keepPunchable(o.Candidates)
	return o, nil
}

// SealAnswer encodes a, binds it to the offer, signs it as the callee, who id must be, and seals it to
// the caller. Errors are those of SealOffer.
func SealAnswer(id *sallyport.Identity, o *Offer, a *Answer) ([]byte, error) {
	if id.PeerID() != o.Callee {
		return nil, fmt.Errorf("sealing an answer: identity %s is not the callee %s", id.PeerID().Short(), o.Callee.Short())
	}
	m, err := appendAnswer(nil, o.Nonce, a)
	if err != nil {
		return nil, fmt.Errorf("sealing an answer: %w", err)
	}
	return seal(id, o.Caller, roleAnswer, m, a.Candidates, a.Flight)
}

// OpenAnswer opens and verifies the answer to the offer o, which id made. It fails with
// ErrForged, ErrOtherOffer or ErrMalformed. Candidates that are not Punchable are dropped.
func OpenAnswer(id *sallyport.Identity, o *Offer, sealed []byte) (*Answer, error) {
	body, err := open(id, o.Callee, roleAnswer, sealed)
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(body, o.Nonce)
	if err != nil {
		return nil, fmt.Errorf("opening an answer from %s: %w", o.Callee.Short(), err)
	}
	a.Candidates = keepPunchable(a.Candidates)
	return a, nil
}

// SealUpdate is SealAnswer for an update; either side of the offer may send one.
func SealUpdate(id *sallyport.Identity, o *Offer, u *Update) ([]byte, error) {
	to, r := o.Callee, roleCallerUpdate
	switch id.PeerID() {
	case o.Caller:
	case o.Callee:
		to, r = o.Caller, roleCalleeUpdate
	default:
		return nil, fmt.Errorf("sealing an update: identity %s is on neither side", id.PeerID().Short())
	}
	m, err := appendUpdate(nil, o.Nonce, u)
	if err != nil {
		return nil, fmt.Errorf("sealing an update: %w", err)
	}
	return seal(id, to, r, m, u.Candidates, u.Flight)
}

// OpenUpdate is OpenAnswer for the other side's update.
func OpenUpdate(id *sallyport.Identity, o *Offer, sealed []byte) (*Update, error) {
	from, r := o.Callee, roleCalleeUpdate
	if id.PeerID() == o.Callee {
		from, r = o.Caller, roleCallerUpdate
	}
	body, err := open(id, from, r, sealed)
	if err != nil {
		return nil, err
	}
	u, err := parseUpdate(body, o.Nonce)
	if err != nil {
		return nil, fmt.Errorf("opening an update from %s: %w", from.Short(), err)
	}
	u.Candidates = keepPunchable(u.Candidates)
	return u, nil
}

// transcript is what is signed: both PeerIDs, sender first, and every byte that is
// sealed. The context string goes into the signature itself.
func transcript(from, to sallyport.PeerID, body []byte) []byte {
	t := make([]byte, 0, len(from)+len(to)+len(body))
	t = append(t, from[:]...)
	t = append(t, to[:]...)
	return append(t, body...)
}

// seal signs body and seals both to the receiver.
func seal(id *sallyport.Identity, to sallyport.PeerID, r role, body []byte, cands []Candidate, flight [][]byte) ([]byte, error) {
	if size := len(body) + signatureSize + sallyport.SealOverhead; size > MaxSealed {
		return nil, fmt.Errorf("sealing %s: %w", r.name, tooLarge(size, cands, flight))
	}
	sig := id.Sign(r.context, transcript(id.PeerID(), to, body))
	sealed, err := sallyport.Seal(to, r.info, slices.Concat(sig, body))
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", r.name, err)
	}
	return sealed, nil
}

// open is the inverse of seal and returns the verified body.
func open(id *sallyport.Identity, from sallyport.PeerID, r role, sealed []byte) ([]byte, error) {
	if len(sealed) > MaxSealed {
		return nil, fmt.Errorf("opening %s: %w: %d bytes, at most %d", r.name, ErrMalformed, len(sealed), MaxSealed)
	}
	plain, err := id.Open(r.info, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening %s from %s: %w: %w", r.name, from.Short(), ErrForged, err)
	}
	if len(plain) < signatureSize {
		return nil, fmt.Errorf("opening %s from %s: %w: no signature", r.name, from.Short(), ErrMalformed)
	}
	sig, body := plain[:signatureSize], plain[signatureSize:]
	if !sallyport.Verify(from, r.context, transcript(from, id.PeerID(), body), sig) {
		return nil, fmt.Errorf("opening %s from %s: %w: wrong signature", r.name, from.Short(), ErrForged)
	}
	return body, nil
}

// tooLarge names the part that takes the most.
func tooLarge(size int, cands []Candidate, flight [][]byte) error {
	inFlight, inCands := 0, 0
	for _, d := range flight {
		inFlight += 2 + len(d)
	}
	for _, c := range cands {
		inCands += len(appendCandidate(nil, c))
	}
	culprit := fmt.Sprintf("candidates (%d in %d bytes)", len(cands), inCands)
	if inFlight > inCands {
		culprit = fmt.Sprintf("flight (%d datagrams in %d bytes)", len(flight), inFlight)
	}
	return &TooLargeError{Size: size, Limit: MaxSealed, Culprit: culprit}
}

// keepPunchable drops what every session would refuse; loopback is for the session to
// judge, which knows whether the peer may be on this machine.
func keepPunchable(cands []Candidate) []Candidate {
	return slices.DeleteFunc(cands, func(c Candidate) bool { return punchable(c.Addr, true) != nil })
}
