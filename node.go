package sallyport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	nodeScheme = "sally://"

	// DefaultNodePort is where a node listens unless told otherwise: the port
	// of STUN and TURN (RFC 8489 section 18.6), which a node also speaks.
	DefaultNodePort = 3478
)

// NodeURL says where a node is and which key it must prove:
// sally://NODEID@host:port. It is comparable.
type NodeURL struct {
	ID   PeerID
	Host string // a DNS name, or an IP address in canonical form without brackets
	Port uint16
}

// ParseNodeURL reads sally://NODEID@host[:port]; the port is
// [DefaultNodePort] where it is absent. An IPv6 address stands in brackets.
func ParseNodeURL(s string) (NodeURL, error) {
	fail := func(format string, args ...any) (NodeURL, error) {
		return NodeURL{}, fmt.Errorf("node URL %q: %w", s, fmt.Errorf(format, args...))
	}
	rest, ok := strings.CutPrefix(s, nodeScheme)
	if !ok {
		return fail("want %sNODEID@host:port", nodeScheme)
	}
	idText, hostport, ok := strings.Cut(strings.TrimSuffix(rest, "/"), "@")
	if !ok {
		return fail("no @ between the node's ID and its host: want %sNODEID@host:port", nodeScheme)
	}
	id, err := ParsePeerID(idText)
	if err != nil {
		return fail("node's ID: %w", err)
	}
	host, port, err := splitHostPort(hostport)
	if err != nil {
		return fail("%w", err)
	}
	return NodeURL{ID: id, Host: host, Port: port}, nil
}

// String returns the URL, always with its port.
func (n NodeURL) String() string { return nodeScheme + n.ID.String() + "@" + n.HostPort() }

// HostPort returns host:port as net.Dial takes it.
func (n NodeURL) HostPort() string {
	return net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port)))
}

// MarshalText returns the URL. It never fails.
func (n NodeURL) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is [ParseNodeURL].
func (n *NodeURL) UnmarshalText(text []byte) error {
	parsed, err := ParseNodeURL(string(text))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

func splitHostPort(s string) (host string, port uint16, err error) {
	host, portText := s, ""
	if bare, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(bare, "]") {
		host = strings.TrimSuffix(bare, "]")
	} else if strings.Contains(s, ":") {
		if host, portText, err = net.SplitHostPort(s); err != nil {
			return "", 0, errors.New("host and port: an IPv6 address needs brackets, as in [2001:db8::1]:3478")
		}
	}
	if host, err = canonicalHost(host); err != nil {
		return "", 0, err
	}
	if portText == "" {
		return host, DefaultNodePort, nil
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q is not a number from 1 to 65535", portText)
	}
	return host, uint16(n), nil
}

const maxHostLen = 253 // RFC 1035 section 2.3.4, without the root's dot

// canonicalHost returns host as it is compared and printed: the shortest form
// of an IP address, IPv4 unmapped, or a DNS name unchanged.
func canonicalHost(host string) (string, error) {
	if host == "" || len(host) > maxHostLen {
		return "", fmt.Errorf("host has %d characters, want 1 to %d", len(host), maxHostLen)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && onlyHostCharacters(addr.Zone()):
		return addr.Unmap().String(), nil
	case err == nil || !onlyHostCharacters(host):
		return "", fmt.Errorf("host %q is neither an IP address nor a DNS name", host)
	}
	return host, nil
}

func onlyHostCharacters(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && r != '-' && r != '.' && r != '_'
	})
}
