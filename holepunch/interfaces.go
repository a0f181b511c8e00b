package holepunch

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// An Interface is what gathering needs to know of a network interface. A host in an
// emulated network may fill in nothing but Prefixes.
type Interface struct {
	Name     string         // tells physical interfaces from containers, bridges and tunnels
	Flags    net.Flags      // zero: up
	Default  bool           // the system would send to the internet out of it
	Prefixes []netip.Prefix // addresses with their networks, the preferred ones first
}

// SystemInterfaces lists the interfaces of this machine. The source addresses that the system
// would choose towards the internet come first; no packet is sent to find them.
func SystemInterfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing network interfaces: %w", err)
	}
	sources := internetSources()
	var out []Interface
	for _, ifc := range all {
		addrs, err := ifc.Addrs()
		if err != nil {
			continue // it went away since
		}
		i := Interface{Name: ifc.Name, Flags: ifc.Flags, Prefixes: prefixes(addrs)}
		slices.SortStableFunc(i.Prefixes, func(a, b netip.Prefix) int {
			return boolOrder(slices.Contains(sources, a.Addr()), slices.Contains(sources, b.Addr()))
		})
		i.Default = len(i.Prefixes) > 0 && slices.Contains(sources, i.Prefixes[0].Addr())
		out = append(out, i)
	}
	return out, nil
}

// boolOrder sorts true first.
func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func prefixes(addrs []net.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ones, _ := n.Mask.Size()
		if p := netip.PrefixFrom(addr.Unmap(), ones); p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// internetSources asks the routing table by connecting UDP sockets, which sends
// nothing. For IPv6 the answer is the temporary address where the system prefers those (RFC 8981). The
// far ends are root name servers: any global unicast address would do.
func internetSources() []netip.Addr {
	var out []netip.Addr
	for network, far := range map[string]string{"udp4": "198.41.0.4:53", "udp6": "[2001:503:ba3e::2:30]:53"} {
		conn, err := net.Dial(network, far)
		if err != nil {
			continue // no route: no preference
		}
		if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
			out = append(out, a.AddrPort().Addr().Unmap())
		}
		conn.Close()
	}
	return out
}

// ifaceClass is how likely an interface leads to a peer, best first.
type ifaceClass uint8

const (
	classDefault   ifaceClass = iota // the default route
	classPhysical                    // another network card, or something unknown
	classTunnel                      // VPN
	classContainer                   // containers, virtual machines and the bridges they hang on
)

// Names are lower-case prefixes, as Linux, macOS and Windows give them out.
var (
	containerNames = []string{"docker", "br-", "veth", "virbr", "vnet", "cni", "flannel", "cali", "cilium", "lxc", "lxd",
		"podman", "kube", "vmnet", "vboxnet", "virtualbox", "vmware", "vethernet", "bridge", "dummy", "nodelocaldns", "antrea", "weave", "ovs-"}
	tunnelNames = []string{"tun", "tap", "wg", "utun", "ppp", "ipsec", "tailscale", "zt", "nebula", "sit", "gre", "ip6tnl",
		"wireguard", "openvpn", "wintun"}
)

func (i Interface) class() ifaceClass {
	named := func(p string) bool { return strings.HasPrefix(strings.ToLower(i.Name), p) }
	switch {
	case i.Default:
		return classDefault
	case slices.ContainsFunc(containerNames, named):
		return classContainer
	case slices.ContainsFunc(tunnelNames, named) || i.Flags&net.FlagPointToPoint != 0:
		return classTunnel
	}
	return classPhysical
}

// usable leaves out what cannot reach anybody.
func (i Interface) usable() bool {
	return i.Flags == 0 || i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0
}
