package behavior

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

const (
	transmissions = 4    // of one request
	maxPacket     = 1500 // larger answers are cut and do not parse
	patience      = 4    // RTOs of the last transmission's own that are waited after it
)

// CHANGE-REQUEST flags, RFC 5780 section 7.2.
const (
	flagChangeIP   = 0x04
	flagChangePort = 0x02
)

// question is one Binding request.
type question struct {
	to                   netip.AddrPort
	changeIP, changePort bool
}

// answer is what came back; the zero answer is silence.
type answer struct {
	mapped, other netip.AddrPort
	rtt           time.Duration
	code          int   // of an error response
	err           error // why the request could not be sent
}

// socket asks questions one batch at a time. It starts no goroutine.
type socket struct {
	conn net.PacketConn
	rto  time.Duration
}

func (s *socket) close() { s.conn.Close() }

func (s *socket) port() uint16 { return addrPort(s.conn.LocalAddr()).Port() }

// exchange is one question under way.
type exchange struct {
	to      netip.AddrPort
	id      [stun.TransactionIDSize]byte
	raw     []byte
	first   time.Time // when it was first sent
	next    time.Time // of the next transmission or of giving up
	timeout time.Duration
	left    int // transmissions
	done    bool
	answer  answer
}

// ask sends all questions, retransmits them as RFC 8489 section 6.2.1 says, and returns once
// each was answered or given up. The error is ctx's or the socket's.
func (s *socket) ask(ctx context.Context, questions ...question) ([]answer, error) {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	exchanges := make([]*exchange, len(questions))
	for i, q := range questions {
		var err error
		if exchanges[i], err = newExchange(q, s.rto); err != nil {
			return nil, err
		}
	}
	for {
		next := s.transmit(exchanges)
		if next.IsZero() {
			break
		}
		if err := s.receive(ctx, exchanges, next); err != nil {
			return nil, err
		}
	}
	answers := make([]answer, len(exchanges))
	for i, x := range exchanges {
		answers[i] = x.answer
	}
	return answers, nil
}

func newExchange(q question, rto time.Duration) (*exchange, error) {
	setters := []stun.Setter{stun.TransactionID, stun.BindingRequest}
	if q.changeIP || q.changePort {
		setters = append(setters, changeRequest(q))
	}
	m, err := stun.Build(setters...)
	if err != nil {
		return nil, fmt.Errorf("building a STUN request: %w", err)
	}
	return &exchange{to: q.to, id: m.TransactionID, raw: m.Raw, timeout: rto, left: transmissions}, nil
}

// changeRequest is CHANGE-REQUEST, RFC 5780 section 7.2.
func changeRequest(q question) stun.RawAttribute {
	value := []byte{0, 0, 0, 0}
	if q.changeIP {
		value[3] |= flagChangeIP
	}
	if q.changePort {
		value[3] |= flagChangePort
	}
	return stun.RawAttribute{Type: stun.AttrChangeRequest, Value: value}
}

// transmit sends what is due and returns when something is due next; zero: all is done.
func (s *socket) transmit(exchanges []*exchange) (next time.Time) {
	now := time.Now()
	for _, x := range exchanges {
		if !x.done && !x.next.After(now) {
			s.transmitOne(x, now)
		}
		if !x.done && (next.IsZero() || x.next.Before(next)) {
			next = x.next
		}
	}
	return next
}

func (s *socket) transmitOne(x *exchange, now time.Time) {
	if x.left == 0 {
		x.done = true
		return
	}
	if x.first.IsZero() {
		x.first = now
	}
	if _, err := s.conn.WriteTo(x.raw, net.UDPAddrFromAddrPort(x.to)); err != nil {
		x.answer.err, x.done = err, true
		return
	}
	x.left--
	x.next = now.Add(x.timeout)
	if x.left == 0 {
		x.next = now.Add(min(patience*s.rto, x.timeout))
	}
	x.timeout *= 2
}

// receive waits until next for one packet.
func (s *socket) receive(ctx context.Context, exchanges []*exchange, next time.Time) error {
	s.conn.SetReadDeadline(next)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var buf [maxPacket]byte
	n, _, err := s.conn.ReadFrom(buf[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("waiting for STUN answers: %w", err)
	case err != nil:
		return nil // an ICMP error of one destination: its request times out
	}
	take(exchanges, buf[:n])
	return nil
}

// take gives a packet to the exchange whose transaction ID it carries. Where it came from does
// not matter: a changed source is the point of the tests.
func take(exchanges []*exchange, b []byte) {
	if packet.ValidSTUN(b) != nil {
		return
	}
	m := &stun.Message{Raw: b}
	if m.Decode() != nil {
		return
	}
	for _, x := range exchanges {
		if !x.done && x.id == m.TransactionID {
			x.receive(m)
		}
	}
}

func (x *exchange) receive(m *stun.Message) {
	switch m.Type {
	case stun.BindingSuccess:
		var mapped stun.XORMappedAddress
		if mapped.GetFrom(m) != nil {
			return // RFC 8489 section 6.3.3: a success without it is discarded
		}
		var other stun.OtherAddress
		if other.GetFrom(m) == nil {
			x.answer.other = ipPort(other.IP, other.Port)
		}
		x.answer.mapped = ipPort(mapped.IP, mapped.Port)
	case stun.BindingError:
		var code stun.ErrorCodeAttribute
		if code.GetFrom(m) != nil {
			return
		}
		x.answer.code = int(code.Code)
	default:
		return
	}
	x.answer.rtt, x.done = time.Since(x.first), true
}

func ipPort(ip net.IP, port int) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port))
}

func addrPort(a net.Addr) netip.AddrPort {
	if udp, ok := a.(*net.UDPAddr); ok {
		return udp.AddrPort()
	}
	return netip.AddrPort{}
}
