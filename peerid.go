package sallyport

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// PeerID names a peer: it is the peer's Ed25519 public key (RFC 8032). It is
// comparable and may be a map key. The zero PeerID names nobody.
//
// Its text form is 56 characters of lower-case base32 (RFC 4648 section 6,
// no padding): the 32 bytes of the key and a checksum of 3 bytes, so that a
// mistyped ID is told from an unknown one.
type PeerID [ed25519.PublicKeySize]byte

const (
	checksumSize  = 3
	peerIDTextLen = (ed25519.PublicKeySize + checksumSize) * 8 / 5
)

var textEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// ParsePeerID reads the text form of a PeerID; upper case is accepted. The
// error says what is wrong with s: its length, a character that cannot occur,
// a checksum that does not fit, or that s is a ticket or a node URL instead.
func ParsePeerID(s string) (PeerID, error) {
	switch {
	case s == "":
		return PeerID{}, errors.New("peer ID is empty")
	case hasPrefixFold(s, nodeScheme):
		return PeerID{}, errors.New("this is a node URL, not a peer ID")
	case hasPrefixFold(s, ticketPrefix):
		return PeerID{}, errors.New("this is a ticket, not a peer ID")
	case len(s) != peerIDTextLen:
		return PeerID{}, fmt.Errorf("peer ID has %d characters, want %d", len(s), peerIDTextLen)
	}
	raw, err := decodeText(s, 0)
	if err != nil {
		return PeerID{}, fmt.Errorf("peer ID: %w", err)
	}
	id := PeerID(raw[:len(PeerID{})])
	if !bytes.Equal(raw[len(id):], id.checksum()) {
		return PeerID{}, errors.New("peer ID: checksum does not fit, a character is mistyped or missing")
	}
	if err := id.validate(); err != nil {
		return PeerID{}, fmt.Errorf("peer ID: %w", err)
	}
	return id, nil
}

// String returns the text form, 56 characters.
func (id PeerID) String() string {
	return textEncoding.EncodeToString(append(id[:], id.checksum()...))
}

// Short returns the first 10 characters of the text form, for logs and
// screens. It does not identify a peer against an adversary.
func (id PeerID) Short() string { return id.String()[:10] }

// IsZero reports whether id names nobody.
func (id PeerID) IsZero() bool { return id == PeerID{} }

// Compare orders IDs by their bytes: -1, 0 or +1.
func (id PeerID) Compare(other PeerID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText returns the text form. It never fails.
func (id PeerID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is [ParsePeerID].
func (id *PeerID) UnmarshalText(text []byte) error {
	parsed, err := ParsePeerID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

func (id PeerID) checksum() []byte {
	sum := sha256.Sum256(append([]byte("sallyport peer id v1"), id[:]...))
	return sum[:checksumSize]
}

// decodeText reads lower- or upper-case base32 from s[start:] and names the
// character that does not belong by its position in s.
func decodeText(s string, start int) ([]byte, error) {
	for i, r := range s[start:] {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '2' || r > '7') {
			return nil, fmt.Errorf("character %q at position %d cannot occur (a-z and 2-7 do)", r, start+i+1)
		}
	}
	s = strings.ToLower(s[start:])
	raw, err := textEncoding.DecodeString(s)
	if err != nil || textEncoding.EncodedLen(len(raw)) != len(s) {
		return nil, errors.New("length is not that of a whole number of bytes")
	}
	if textEncoding.EncodeToString(raw) != s {
		return nil, errors.New("last character has bits that must be zero")
	}
	return raw, nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
