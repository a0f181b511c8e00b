package natlab

import "errors"

// Reasons for which a packet is dropped. They are what NAT and Firewall return and
// what Event.Err holds; compare with errors.Is.
var (
	// ErrNoMapping: an inbound packet to an external endpoint that no mapping owns.
	ErrNoMapping = errors.New("natlab: no mapping")
	// ErrFiltered: the mapping or flow exists, but the filter does not permit this remote endpoint.
	ErrFiltered = errors.New("natlab: filtered")
	// ErrExhausted: no external port, or no session, is left.
	ErrExhausted = errors.New("natlab: ports or sessions exhausted")
	// ErrNoHairpin: an inside host addressed the NAT's own external address and hairpinning is off.
	ErrNoHairpin = errors.New("natlab: no hairpinning")
	// ErrFamily: an IPv6 packet, or one with an invalid endpoint, was given to the IPv4 NAT.
	ErrFamily = errors.New("natlab: not a translatable IPv4 packet")
	// ErrBlocked: a firewall forbids UDP.
	ErrBlocked = errors.New("natlab: UDP blocked")
	// ErrNoRoute: nobody has the destination address.
	ErrNoRoute = errors.New("natlab: no route")
	// ErrNoSocket: the host has the address, but no socket is bound to the port.
	ErrNoSocket = errors.New("natlab: no socket")
	// ErrTTL: the packet's TTL ran out.
	ErrTTL = errors.New("natlab: TTL exceeded")
	// ErrLost: the link lost the packet by chance.
	ErrLost = errors.New("natlab: lost on the link")
	// ErrCut: the link is cut.
	ErrCut = errors.New("natlab: link is cut")
	// ErrTooBig: the packet is larger than the link's MTU (packets are never fragmented).
	ErrTooBig = errors.New("natlab: larger than the MTU")
	// ErrQueueFull: a rate-limited link or a socket had no room left.
	ErrQueueFull = errors.New("natlab: queue full")
)

// ErrConfig is wrapped by every error about an invalid configuration.
var ErrConfig = errors.New("natlab: invalid configuration")
