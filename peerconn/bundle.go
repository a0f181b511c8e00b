package peerconn

import (
	"net"
	"net/netip"
	"sync"
)

// bundle is what an allocation sends to its server. While a run of datagrams is
// written, the frames that the relay's client makes of them are collected and leave
// in one system call, to be cut apart by the kernel.
type bundle struct {
	sock *socket

	mu   sync.Mutex // guards what follows
	runs int        // being written
	to   netip.AddrPort
	size int // of all frames in b but the last, which may be shorter
	b    []byte
}

// The kernel takes 64 segments, and 65,507 bytes, at a time.
const (
	maxBundle   = 48 << 10 // bytes
	maxSegments = 48
)

// send takes one frame, as relay.Config.Send.
func (q *bundle) send(frame []byte, to netip.AddrPort) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.runs == 0 {
		return q.sock.send(frame, to)
	}
	var err error
	if len(q.b) > 0 && !q.fits(frame, to) {
		err = q.flush()
	}
	if len(q.b) == 0 {
		q.size, q.to = len(frame), to
	}
	q.b = append(q.b, frame...)
	return err
}

// fits reports whether frame can follow what was collected, which is something.
// The caller holds the mutex.
func (q *bundle) fits(frame []byte, to netip.AddrPort) bool {
	full := len(q.b)%q.size == 0
	return full && len(frame) <= q.size && to == q.to &&
		len(q.b)+len(frame) <= maxBundle && len(q.b) < maxSegments*q.size
}

// run has write send several frames together.
func (q *bundle) run(write func() error) error {
	q.mu.Lock()
	q.runs++
	q.mu.Unlock()
	err := write()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.runs--
	if e := q.flush(); e != nil {
		return e
	}
	return err
}

// flush sends what was collected. The caller holds the mutex.
func (q *bundle) flush() (err error) {
	switch {
	case len(q.b) > q.size:
		_, _, err = q.sock.udp.WriteMsgUDP(q.b, segmentControl(q.size), net.UDPAddrFromAddrPort(q.to))
	case len(q.b) > 0:
		err = q.sock.send(q.b, q.to)
	}
	q.b = q.b[:0]
	return err
}

// writeRun sends the datagrams of segment bytes in b to peer.
func (a *allocation) writeRun(b []byte, segment int, peer netip.AddrPort) error {
	return a.out.run(func() error {
		return eachDatagram(b, segment, func(d []byte) error {
			_, err := a.WriteTo(d, peer)
			return err
		})
	})
}
