package sallyport

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const (
	ticketPrefix      = "sally1"
	ticketChecksum    = 4
	maxTicketNodes    = 8
	maxInviteLen      = 32
	maxTicketTextSize = 4096
)

// Ticket is everything a stranger needs to call a peer: whom to call, at which
// home nodes, and optionally a one-time invitation. Its text form starts with
// "sally1" and is short enough to paste or to show as a QR code.
//
// The text is lower-case base32 (RFC 4648 section 6) of
//
//	peer (32) | n (1) | n × { node (32) | port (2) | len (1) | host (len) } | len (1) | invite (len) | checksum (4)
//
// with integers in network byte order. A host that is an IP address is stored
// as its 4 or 16 bytes behind a len of 0x80 | 4 or 0x80 | 16. The checksum is
// the head of SHA-256 over all that stands before it.
type Ticket struct {
	Peer   PeerID
	Nodes  []NodeURL // at most 8, the nearest first
	Invite []byte    // at most 32 bytes, empty for none
}

// ParseTicket reads the text form of a ticket. A bare PeerID is no ticket: ask
// [ParsePeerID] first where both are welcome.
func ParseTicket(s string) (Ticket, error) {
	body, ok := strings.CutPrefix(strings.ToLower(s), ticketPrefix)
	if !ok {
		return Ticket{}, fmt.Errorf("ticket does not start with %q", ticketPrefix)
	}
	if len(s) > maxTicketTextSize {
		return Ticket{}, fmt.Errorf("ticket has %d characters, more than %d", len(s), maxTicketTextSize)
	}
	raw, err := decodeText(body)
	if err != nil {
		return Ticket{}, fmt.Errorf("ticket: %w", err)
	}
	if len(raw) < ticketChecksum {
		return Ticket{}, errors.New("ticket is cut short")
	}
	payload, sum := raw[:len(raw)-ticketChecksum], raw[len(raw)-ticketChecksum:]
	if want := sha256.Sum256(payload); !bytes.Equal(sum, want[:ticketChecksum]) {
		return Ticket{}, errors.New("ticket: checksum does not fit, a character is mistyped or missing")
	}
	return parseTicketPayload(payload)
}

func parseTicketPayload(b []byte) (Ticket, error) {
	r := ticketReader{b: b}
	var t Ticket
	t.Peer = r.peerID()
	n := int(r.uint8())
	if n > maxTicketNodes {
		return Ticket{}, fmt.Errorf("ticket names %d nodes, more than %d", n, maxTicketNodes)
	}
	for range n {
		t.Nodes = append(t.Nodes, NodeURL{ID: r.peerID(), Port: r.uint16(), Host: r.host()})
	}
	t.Invite = bytes.Clone(r.take(int(r.uint8())))
	switch {
	case r.err != nil:
		return Ticket{}, r.err
	case len(r.b) != 0:
		return Ticket{}, fmt.Errorf("ticket has %d bytes too many", len(r.b))
	case len(t.Invite) > maxInviteLen:
		return Ticket{}, fmt.Errorf("ticket's invitation has %d bytes, more than %d", len(t.Invite), maxInviteLen)
	}
	return t, nil
}

// String returns the text form. A ticket beyond its limits (see the fields)
// is cut to them.
func (t Ticket) String() string {
	nodes := t.Nodes[:min(len(t.Nodes), maxTicketNodes)]
	b := append(t.Peer[:len(t.Peer):len(t.Peer)], byte(len(nodes)))
	for _, n := range nodes {
		b = append(b, n.ID[:]...)
		b = binary.BigEndian.AppendUint16(b, n.Port)
		b = appendHost(b, n.Host)
	}
	invite := t.Invite[:min(len(t.Invite), maxInviteLen)]
	b = append(append(b, byte(len(invite))), invite...)
	sum := sha256.Sum256(b)
	return ticketPrefix + textEncoding.EncodeToString(append(b, sum[:ticketChecksum]...))
}

const (
	hostIsIP    = 0x80
	maxNameByte = 0x7f
)

// appendHost writes a DNS name or the canonical bytes of an IP address. Names
// longer than 127 bytes do not fit; such a node is written without a host and
// is refused when the ticket is read.
func appendHost(b []byte, host string) []byte {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		raw := addr.AsSlice()
		return append(append(b, hostIsIP|byte(len(raw))), raw...)
	}
	if len(host) > maxNameByte {
		host = ""
	}
	return append(append(b, byte(len(host))), host...)
}

// ticketReader takes fields off the front of b; the first failure sticks.
type ticketReader struct {
	b   []byte
	err error
}

func (r *ticketReader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.err = errors.Join(r.err, errors.New("ticket is cut short"))
		r.b = nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *ticketReader) uint8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *ticketReader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *ticketReader) peerID() (id PeerID) {
	if b := r.take(len(id)); b != nil {
		id = PeerID(b)
	}
	if _, err := id.sealingKey(); err != nil && r.err == nil {
		r.err = fmt.Errorf("ticket: peer ID: %w", err)
	}
	return id
}

func (r *ticketReader) host() string {
	kind := r.uint8()
	raw := r.take(int(kind &^ hostIsIP))
	if r.err != nil {
		return ""
	}
	if kind&hostIsIP != 0 {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			r.err = fmt.Errorf("ticket: node address of %d bytes", len(raw))
		}
		return addr.String()
	}
	if err := checkHost(string(raw)); err != nil {
		r.err = fmt.Errorf("ticket: %w", err)
	}
	return string(raw)
}
