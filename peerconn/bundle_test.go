package peerconn

import (
	"bytes"
	"net"
	"testing"
)

// A run of frames leaves together, in order, and arrives as it was cut; what
// does not fit the run leaves as well.
func TestBundle(t *testing.T) {
	if segmentControl(1) == nil {
		t.Skip("runs are written on Linux only")
	}
	server := loopback(t)
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	q := &bundle{sock: newSocket(loopback(t), nil)}
	frame := func(n, size int) []byte { return bytes.Repeat([]byte{byte(n)}, size) }
	many := make([]int, 2*maxSegments+3)
	for i := range many {
		many[i] = 30
	}
	for name, sizes := range map[string][]int{
		"none": {}, "one": {100}, "equal": {100, 100, 100}, "a short last one": {100, 100, 40},
		"a short one within": {100, 40, 100, 100}, "growing": {40, 100, 100}, "many": many, "large": {1400, 1400, 1400, 1400, 1400, 1400},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, q.run(func() error {
				for i, size := range sizes {
					check(t, q.send(frame(i, size), to))
				}
				return nil
			}))
			check(t, q.send(frame(0xff, 50), to)) // outside a run: at once
			buf := make([]byte, 1500)
			for i, size := range append(sizes, 50) {
				want := frame(i, size)
				if i == len(sizes) {
					want = frame(0xff, 50)
				}
				n, _, err := server.ReadFrom(buf)
				check(t, err)
				if !bytes.Equal(buf[:n], want) {
					t.Fatalf("datagram %d is %d bytes of %x, want %d", i, n, buf[:min(n, 1)], size)
				}
			}
		})
	}
}

var _ runWriter = (*allocation)(nil) // or QUIC's runs are written one by one
