package peerconn

import (
	"net"
	"syscall"

	"golang.org/x/net/ipv4"
)

// kernelSocket is a socket on a *net.UDPConn with what QUIC's fast path asks
// for: batched reads and segmentation offload.
type kernelSocket struct{ *socket }

// SyscallConn lets QUIC set socket options.
func (k *kernelSocket) SyscallConn() (syscall.RawConn, error) { return k.udp.SyscallConn() }

// ReadMsgUDP is part of the interface QUIC looks for; QUIC reads by ReadBatch.
func (k *kernelSocket) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, from, err := k.ReadFrom(b)
	if err != nil {
		return 0, 0, 0, nil, err
	}
	return n, 0, 0, from.(*net.UDPAddr), nil
}

// ReadBatch fills ms with QUIC datagrams, at least one. QUIC pairs the i-th
// message with a buffer of its own, so payloads are copied down over what is not
// QUIC's, and messages never change places. QUIC cannot cope with an empty batch or
// an error that passes, so neither is returned.
func (k *kernelSocket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		if n := k.takeBatch(ms); n > 0 {
			return n, nil
		}
		n, err := k.batch.ReadBatch(ms, flags)
		if err != nil {
			if err := k.readError(err); err != nil {
				return 0, err
			}
			continue
		}
		if kept := k.keepQUIC(ms[:n]); kept > 0 {
			return kept, nil
		}
	}
}

func (k *kernelSocket) takeBatch(ms []ipv4.Message) int {
	for i := range ms {
		n, from, ok := k.inbox.take(ms[i].Buffers[0])
		if !ok {
			return i
		}
		ms[i].N, ms[i].NN, ms[i].Addr = n, 0, from
	}
	return len(ms)
}

func (k *kernelSocket) keepQUIC(ms []ipv4.Message) int {
	kept := 0
	for i := range ms {
		from := ms[i].Addr
		as := k.sort(ms[i].Buffers[0][:ms[i].N], from)
		if as == nil {
			continue
		}
		if as != from {
			ms[i].NN = 0 // packet info and ECN belong to the real path, not to the virtual address
		}
		if kept != i {
			copy(ms[kept].Buffers[0], ms[i].Buffers[0][:ms[i].N])
			copy(ms[kept].OOB, ms[i].OOB[:ms[i].NN])
			ms[kept].N, ms[kept].NN, ms[kept].Flags = ms[i].N, ms[i].NN, ms[i].Flags
		}
		ms[kept].Addr = as
		kept++
	}
	return kept
}

// WriteMsgUDP sends one datagram, or a run of equal ones that the kernel is to
// cut into segments.
func (k *kernelSocket) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if !isVirtual(addr.IP) {
		return k.udp.WriteMsgUDP(b, oob, addr)
	}
	return len(b), len(oob), k.writeRoute(b, addr, segmentSize(oob))
}
