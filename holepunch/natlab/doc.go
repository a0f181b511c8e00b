// Package natlab is an internet in memory, with NATs, for tests and demonstrations. Its sockets
// are net.PacketConn: what speaks UDP through that interface (quic-go, pion) runs on it unchanged.
//
//	in := natlab.New(natlab.Config{Link: natlab.LinkConfig{Latency: 10 * time.Millisecond}})
//	defer in.Close()
//	node := in.Host("node", natlab.HostConfig{})
//	left, err := in.Site(natlab.SitePortRestricted, "left") // a host behind a NAT, by name
//	conn, err := left.Host.ListenPacket("udp", ":0")        // node.Addr() is reachable from here
//
// Topologies of other shapes are built from Internet.Host, Internet.Router, Router.Host and
// Router.Router: routers behind routers, several hosts in one home, dual-stack hosts, a host in
// two networks (Host.Attach). At run time a Link can be cut, slowed or made lossy, a Router
// rebooted or renumbered, a Host moved to another network. Config.Tap sees every packet and the
// reason of every drop.
//
// # Guarantees
//
// Under testing/synctest time is virtual and a run takes as long as its computation; goroutines
// wait on condition variables and timers only. There is no goroutine of our own: packets on their
// way are in one heap with one timer. Every random choice follows from Config.Seed, each link and
// NAT having a sequence of its own. So equal seeds give equal runs, as far as the order in which
// goroutines write at one instant is equal. Outside synctest the same code runs in real time.
// NAT and Firewall are pure (packet and time in, packet out) and may be used without the rest.
// All their tables are bounded.
//
// # Limits
//
// UDP only. No fragments: a packet larger than the MTU is dropped. No ICMP: a sender never learns of a
// drop, except by EMSGSIZE and ENETUNREACH on its own link. No multicast. Zones of IPv6 addresses
// are ignored. RFC 4787's port parity and contiguity (sections 4.2.2 and 4.2.3) are not modelled.
//
// # Why not pion's vnet
//
// github.com/pion/transport/v5/vnet (read at v5.1.1) is an in-memory network in the same spirit: it has
// the RFC 4787 mapping and filtering behaviours, routers behind routers, 1:1 NAT, a mapping
// lifetime, delay, filters for loss, duplication and rate, TCP, and it runs under synctest. We
// do not use it because what we must test is what it leaves out:
//
//   - Allocation: one counter from port 49152 up, never reused. Translating fails after 16,384
//     mappings, and that error ends the router's loop. Preserving, random, delta and block
//     allocation do not exist, so port prediction and spraying could not be tried.
//   - NATType.Hairpinning and PortPreservation are "Not implemented yet".
//   - Filter entries live as long as their mapping; there is no absolute lifetime, no inbound
//     refresh, no session cap, and no model of Linux's tuple stealing.
//   - Routers hold one IPv4 network; IPv6 is not routed. Packets carry no TTL and links have no MTU.
//   - Jitter and ephemeral ports come from the unseeded global random source; jitter is slept off
//     with the router's lock held, and each router has its own goroutine and one delay for all.
//   - Its UDPConn reports a passed read deadline once and then blocks again, fails a read into a short
//     buffer, and after Close returns an error that is not net.ErrClosed.
//   - The NAT works on vnet's own chunks, reads the clock itself and keys its tables by formatted
//     strings; it cannot be put on a TUN device.
package natlab
