package sallyport

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
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
// as its 4 bytes behind a len of 254 or its 16 bytes behind a len of 255. The
// checksum is the head of SHA-256 over all that stands before it. There is one
// text for a ticket, but for upper case, which is accepted (it makes a smaller
// QR code).
type Ticket struct {
	Peer   PeerID
	Nodes  []NodeURL // at most 8, the nearest first
	Invite []byte    // at most 32 bytes, empty for none
}

// ParseTicket reads the text form of a ticket. A bare PeerID is no ticket: ask
// [ParsePeerID] first where both are welcome.
func ParseTicket(s string) (Ticket, error) {
	if !hasPrefixFold(s, ticketPrefix) {
		return Ticket{}, fmt.Errorf("ticket does not start with %q", ticketPrefix)
	}
	if len(s) > maxTicketTextSize {
		return Ticket{}, fmt.Errorf("ticket has %d characters, more than %d", len(s), maxTicketTextSize)
	}
	raw, err := decodeText(s, len(ticketPrefix))
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
		t.Nodes = append(t.Nodes, NodeURL{ID: r.peerID(), Port: r.port(), Host: r.host()})
	}
	if invite := r.take(int(r.uint8())); len(invite) > 0 {
		t.Invite = bytes.Clone(invite)
	}
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

const ( // beside the lengths of names, 1 to maxHostLen
	hostIsIPv4 = 254
	hostIsIPv6 = 255
)

// appendHost writes a DNS name or the bytes of an IP address. A host that
// [ParseNodeURL] refuses is written as no host, and then the reader refuses.
func appendHost(b []byte, host string) []byte {
	host, err := canonicalHost(host)
	if err != nil {
		return append(b, 0)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil || addr.Zone() != "":
		return append(append(b, byte(len(host))), host...)
	case addr.Is4():
		return append(append(b, hostIsIPv4), addr.AsSlice()...)
	}
	return append(append(b, hostIsIPv6), addr.AsSlice()...)
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

func (r *ticketReader) port() (port uint16) {
	if b := r.take(2); b != nil {
		port = binary.BigEndian.Uint16(b)
	}
	if port == 0 && r.err == nil {
		r.err = errors.New("ticket: node without a port")
	}
	return port
}

func (r *ticketReader) peerID() (id PeerID) {
	if b := r.take(len(id)); b != nil {
		id = PeerID(b)
	}
	if err := id.validate(); err != nil && r.err == nil {
		r.err = fmt.Errorf("ticket: peer ID: %w", err)
	}
	return id
}

func (r *ticketReader) host() string {
	var host string
	start := r.b
	switch kind := r.uint8(); kind {
	case hostIsIPv4, hostIsIPv6:
		addr, _ := netip.AddrFromSlice(r.take(4 + 12*int(kind-hostIsIPv4)))
		host = addr.String()
	default:
		host = string(r.take(int(kind)))
	}
	if r.err != nil {
		return ""
	}
	canonical := appendHost(nil, host)
	if host == "" || !bytes.Equal(canonical, start[:min(len(start), len(canonical))]) {
		r.err = fmt.Errorf("ticket: node's host %q is malformed or not in its shortest form", host)
	}
	return host
}
