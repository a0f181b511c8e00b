package server

import (
	"net"
	"syscall"
)

// askForPacketInfo makes the system say to which of our addresses a datagram
// came. What it says (struct in_pktinfo or in6_pktinfo) is, given back with an
// answer, an order to send from that address: ip(7), RFC 3542 section 6.
func askForPacketInfo(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		// One of the two only: an IPv6 socket says it for IPv4 packets too.
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
		if failed != nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1)
		}
	})
	if err != nil {
		return err
	}
	return failed
}
