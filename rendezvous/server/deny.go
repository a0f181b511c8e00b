package server

import (
	"errors"
	"net/netip"
	"slices"
)

// denied are the addresses that are nobody's on the internet (RFC 6890 and its
// registries), or stand for somebody else's (translation and tunnels).
var denied = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
	"2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// allowed keeps a volunteer from having the node knock at other people's doors:
// an address that is not the one the volunteer itself is seen at must be a
// public one.
func allowed(addr netip.AddrPort, seen netip.Addr) error {
	ip := addr.Addr()
	switch {
	case addr.Port() == 0:
		return errors.New("port is 0")
	case ip == seen:
		return nil
	case slices.ContainsFunc(denied, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return errors.New("address is not a public one")
	}
	return nil
}
