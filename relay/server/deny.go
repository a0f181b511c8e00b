package server

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// denied are the addresses nobody is relayed to, in canonical form: the special-purpose registries
// of IANA (RFC 6890), private and shared space, multicast, and every IPv6 prefix that carries an
// IPv4 address inside (compatible, mapped, NAT64, 6to4), so that no encoding gets round the list.
var denied = mustPrefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
	"2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10",
	"ff00::/8",
)

func mustPrefixes(texts ...string) []netip.Prefix {
	prefixes := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		prefixes[i] = netip.MustParsePrefix(text)
	}
	return prefixes
}

func containsAddr(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// interfacesFor is how long the list of the machine's own addresses is trusted.
const interfacesFor = 10 * time.Second

// policy decides whom the relay sends to. All but the cached interface list is fixed.
type policy struct {
	allow      []netip.Prefix
	own        map[netip.AddrPort]bool // our listening addresses: never
	ownPorts   map[uint16]bool         // ports we listen on at every address
	advertised map[netip.Addr]bool     // where our relayed addresses are: live ones only
	interfaces func() ([]netip.Addr, error)

	mu     sync.RWMutex // guards the rest
	local  map[netip.Addr]bool
	expire time.Time
}

// permits says whether a permission for addr may be granted (RFC 8656 §9.2: "The server MAY …
// restrict the set of IP addresses … If a … restriction applies, … 403 (Forbidden)").
func (p *policy) permits(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" {
		return false
	}
	if containsAddr(p.allow, addr) {
		return true
	}
	if containsAddr(denied, addr) {
		return false
	}
	// A peer may have its own relayed address here, so the address on which those are is let
	// through; sends checks the port.
	return p.advertised[addr] || !p.isLocal(addr)
}

// sends says whether a packet may leave for peer. relayed: peer is a relayed address of ours that
// is in use now.
func (p *policy) sends(peer netip.AddrPort, relayed bool) bool {
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	if peer.Port() == 0 || p.own[peer] || !p.permits(peer.Addr()) {
		return false
	}
	if relayed {
		return true
	}
	if p.ownPorts[peer.Port()] && p.isLocal(peer.Addr()) {
		return false
	}
	return !p.advertised[peer.Addr()] || containsAddr(p.allow, peer.Addr())
}

// isLocal says whether addr is one of the machine's own.
func (p *policy) isLocal(addr netip.Addr) bool {
	p.mu.RLock()
	local, fresh := p.local, time.Now().Before(p.expire)
	p.mu.RUnlock()
	if !fresh {
		local = p.refreshLocal()
	}
	return local == nil || local[addr] // not knowing our own addresses must not open them
}

func (p *policy) refreshLocal() map[netip.Addr]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.expire) {
		return p.local
	}
	addrs, err := p.interfaces()
	if err == nil {
		p.local = make(map[netip.Addr]bool, len(addrs))
		for _, a := range addrs {
			p.local[a.Unmap().WithZone("")] = true
		}
	}
	p.expire = time.Now().Add(interfacesFor)
	return p.local
}

// systemAddrs lists the addresses of the machine's interfaces.
func systemAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if ipnet, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ipnet.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}
