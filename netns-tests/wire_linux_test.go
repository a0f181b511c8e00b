package netnstests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A wireQuality says what a wire does to packets, the same in both directions.
// The zero value is a perfect wire.
type wireQuality struct {
	delay  time.Duration // one way
	jitter time.Duration // up to this much more, evenly; the order is kept
	loss   float64       // 0 to 1, each packet by itself
	rate   int           // bits per second, 0 is unlimited
	queue  time.Duration // how long packets may wait for the rate; 0 is 100 ms
}

// A wire is a pair of TUN devices in two namespaces and the goroutines that carry
// packets from one to the other: the netem this kernel does not have.
//
// Packets travel with their virtio header, so a burst that the kernel keeps as one
// large segment crosses in one read and one write. A lossy wire asks for single packets.
type wire struct {
	quality wireQuality
	ends    [2]*os.File
	dropped atomic.Int64
	running sync.WaitGroup
}

const (
	wireDepth     = 1 << 14       // parcels in flight one way
	virtioHeader  = 10            // struct virtio_net_hdr, the default of IFF_VNET_HDR
	wireMTU       = 1500          // what a home's uplink carries
	largestParcel = 1<<16 + 1<<10 // a whole segmentation-offload packet and its header
)

// A parcel is one packet on its way.
type parcel struct {
	due  time.Time
	data []byte
}

// newWire lays a wire between device nameA in a and device nameB in b.
func newWire(a *namespace, nameA string, b *namespace, nameB string, q wireQuality) (*wire, error) {
	w := &wire{quality: q}
	for i, end := range []struct {
		ns   *namespace
		name string
	}{{a, nameA}, {b, nameB}} {
		file, err := openTUN(end.ns, end.name, q.loss == 0)
		if err != nil {
			w.close()
			return nil, err
		}
		w.ends[i] = file
	}
	w.carry(w.ends[0], w.ends[1])
	w.carry(w.ends[1], w.ends[0])
	return w, nil
}

// close removes both devices and waits for the goroutines.
func (w *wire) close() {
	for _, end := range w.ends {
		if end != nil {
			end.Close()
		}
	}
	w.running.Wait()
}

// carry starts the two goroutines of one direction; closing the ends stops them.
func (w *wire) carry(from, to *os.File) {
	road := make(chan parcel, wireDepth)
	w.running.Go(func() {
		defer close(road)
		w.collect(from, road)
	})
	w.running.Go(func() { w.deliver(to, road) })
}

// collect reads packets and stamps each with the time it is due at the other end.
func (w *wire) collect(from *os.File, road chan<- parcel) {
	buffer := make([]byte, largestParcel)
	var free, last time.Time // when the line is free again; when the packet before is due
	queue := w.quality.queue
	if queue == 0 {
		queue = 100 * time.Millisecond
	}
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		now := time.Now()
		if w.quality.loss > 0 && rand.Float64() < w.quality.loss || free.Sub(now) > queue {
			w.dropped.Add(1)
			continue
		}
		if free.Before(now) {
			free = now
		}
		if w.quality.rate > 0 {
			free = free.Add(time.Duration(n-virtioHeader) * 8 * time.Second / time.Duration(w.quality.rate))
		}
		due := free.Add(w.quality.delay)
		if w.quality.jitter > 0 {
			due = due.Add(rand.N(w.quality.jitter))
		}
		if due.Before(last) {
			due = last
		}
		last = due
		select {
		case road <- parcel{due, append([]byte(nil), buffer[:n]...)}:
		default:
			w.dropped.Add(1)
		}
	}
}

// deliver writes each packet when it is due. The kernel refuses a packet only
// while the device is not up yet; that packet is lost like any other.
func (w *wire) deliver(to *os.File, road <-chan parcel) {
	for p := range road {
		sleepUntil(p.due)
		if _, err := to.Write(p.data); err != nil {
			if errors.Is(err, os.ErrClosed) {
				for range road { //nolint:revive // let the collector finish
				}
				return
			}
			w.dropped.Add(1)
		}
	}
}

// sleepUntil waits in the kernel: Go's own timers are rounded up to a millisecond
// by epoll, which is five percent of this wire.
func sleepUntil(due time.Time) {
	for {
		wait := time.Until(due)
		if wait <= 0 {
			return
		}
		ts := unix.NsecToTimespec(int64(wait))
		_ = unix.Nanosleep(&ts, nil) // an interrupted sleep is continued by the loop
	}
}

// openTUN makes a TUN device in ns and returns its packet end.
func openTUN(ns *namespace, name string, offload bool) (file *os.File, err error) {
	err = ns.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("opening /dev/net/tun: %w", err)
		}
		if err := shapeTUN(fd, name, offload); err != nil {
			unix.Close(fd)
			return fmt.Errorf("making TUN device %s: %w", name, err)
		}
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	link, err := ns.links.LinkByName(name)
	if err == nil {
		err = errors.Join(ns.links.LinkSetMTU(link, wireMTU), ns.links.LinkSetTxQLen(link, 5000))
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("shaping %s in %s: %w", name, ns.name, err)
	}
	return file, nil
}

// shapeTUN attaches fd to a device that hands over whole IP packets with their
// virtio header.
func shapeTUN(fd int, name string, offload bool) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	if !offload {
		return nil
	}
	const all = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_USO4 | unix.TUN_F_USO6
	return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, all)
}
