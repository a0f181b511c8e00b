package peerconn

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// segmentSize reads the UDP_SEGMENT control message that QUIC appends when it
// wants the kernel to cut a buffer into datagrams; 0 where there is none.
func segmentSize(oob []byte) int {
	for len(oob) > 0 {
		header, body, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if header.Level == unix.IPPROTO_UDP && header.Type == unix.UDP_SEGMENT && len(body) >= 2 {
			return int(binary.NativeEndian.Uint16(body))
		}
		oob = rest
	}
	return 0
}

// segmentControl is the control message that segmentSize reads.
func segmentControl(size int) []byte {
	b := control(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(b[unix.CmsgSpace(0):], uint16(size))
	return b
}

const canSetTTL = true

// ttlControl makes one datagram leave with another time to live.
func ttlControl(ttl int, to netip.Addr) []byte {
	level, kind := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_HOPLIMIT)
	if to.Unmap().Is4() {
		level, kind = unix.IPPROTO_IP, unix.IP_TTL
	}
	b := control(level, kind, 4)
	binary.NativeEndian.PutUint32(b[unix.CmsgSpace(0):], uint32(ttl))
	return b
}

func control(level, kind int32, size int) []byte {
	b := make([]byte, unix.CmsgSpace(size))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(size))
	return b
}

// offloadFailed reports whether the device cannot cut segments (EIO), which
// QUIC must hear of: it then sends datagrams one by one.
func offloadFailed(err error) bool { return errors.Is(err, unix.EIO) }
