package netnstests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A namespace is one unnamed network namespace and the thread that lives in it.
// It ceases to exist when the thread, its handle and the commands in it are gone.
type namespace struct {
	name   string // only for messages
	handle netns.NsHandle
	links  *netlink.Handle
	calls  chan func()
	closed sync.Once
}

// newNamespace starts the thread of a new namespace with its loopback up.
func newNamespace(name string) (*namespace, error) {
	ns := &namespace{name: fmt.Sprintf("sally-%d-%s", os.Getpid(), name), calls: make(chan func())}
	born := make(chan error)
	go ns.live(born)
	if err := <-born; err != nil {
		return nil, fmt.Errorf("making namespace %s: %w", ns.name, err)
	}
	links, err := netlink.NewHandleAt(ns.handle)
	if err != nil {
		ns.close()
		return nil, fmt.Errorf("opening rtnetlink in %s: %w", ns.name, err)
	}
	ns.links = links
	if err := ns.prepare(); err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

// live is the thread of the namespace; close ends it. It never unlocks the
// thread, so the runtime destroys it instead of lending it to other goroutines.
func (ns *namespace) live(born chan<- error) {
	runtime.LockOSThread()
	handle, err := netns.New()
	ns.handle = handle
	born <- err
	if err != nil {
		return
	}
	for call := range ns.calls {
		call()
	}
}

// do runs f on the namespace's thread. Sockets opened and commands started by f
// belong to the namespace; goroutines started by f do not.
func (ns *namespace) do(f func() error) error {
	result := make(chan error)
	ns.calls <- func() { result <- f() }
	if err := <-result; err != nil {
		return fmt.Errorf("in %s: %w", ns.name, err)
	}
	return nil
}

// close lets go of the namespace: its thread ends, and with it every command
// started from it. It is idempotent.
func (ns *namespace) close() {
	ns.closed.Do(func() {
		close(ns.calls)
		if ns.links != nil {
			ns.links.Close()
		}
		ns.handle.Close()
	})
}

// prepare brings up loopback, forwards IPv4 and keeps reverse-path filters out of the way.
func (ns *namespace) prepare() error {
	lo, err := ns.links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo in %s: %w", ns.name, err)
	}
	if err := ns.links.LinkSetUp(lo); err != nil {
		return fmt.Errorf("raising lo in %s: %w", ns.name, err)
	}
	return ns.do(func() error {
		for key, value := range map[string]string{
			"ipv4/ip_forward":             "1",
			"ipv4/conf/all/rp_filter":     "0",
			"ipv4/conf/default/rp_filter": "0",
			"ipv6/conf/all/forwarding":    "1",
		} {
			if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0); err != nil {
				return fmt.Errorf("setting %s: %w", key, err)
			}
		}
		return nil
	})
}

// address puts an address with its on-link prefix on an interface and raises it.
func (ns *namespace) address(device string, prefix netip.Prefix) error {
	link, err := ns.links.LinkByName(device)
	if err != nil {
		return fmt.Errorf("finding %s in %s: %w", device, ns.name, err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // usable at once
	}
	if err := ns.links.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("adding %s to %s of %s: %w", prefix, device, ns.name, err)
	}
	if err := ns.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("raising %s of %s: %w", device, ns.name, err)
	}
	return nil
}

// defaultVia sends everything that is not on-link to gateway.
func (ns *namespace) defaultVia(gateway netip.Addr) error {
	route := &netlink.Route{Gw: gateway.AsSlice()}
	if err := ns.links.RouteAdd(route); err != nil {
		return fmt.Errorf("routing %s through %s: %w", ns.name, gateway, err)
	}
	return nil
}

// routeVia sends what is for prefix to gateway.
func (ns *namespace) routeVia(prefix netip.Prefix, gateway netip.Addr) error {
	route := &netlink.Route{Gw: gateway.AsSlice(), Dst: &net.IPNet{
		IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}}
	if err := ns.links.RouteAdd(route); err != nil {
		return fmt.Errorf("routing %s from %s to %s: %w", prefix, ns.name, gateway, err)
	}
	return nil
}

// listenUDP opens a UDP socket of this namespace.
func (ns *namespace) listenUDP(at netip.AddrPort) (conn *net.UDPConn, err error) {
	err = ns.do(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return conn, err
}

// start starts cmd inside the namespace; it dies with the namespace's thread.
func (ns *namespace) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return ns.do(cmd.Start)
}

// join ties two namespaces together by a pair of virtual Ethernet devices.
func join(a *namespace, deviceA string, b *namespace, deviceB string) error {
	pair := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: deviceA},
		PeerName:      deviceB,
		PeerNamespace: netlink.NsFd(b.handle),
	}
	if err := a.links.LinkAdd(pair); err != nil {
		return fmt.Errorf("joining %s and %s: %w", a.name, b.name, err)
	}
	return nil
}

// setTTL limits how many routers a socket's packets may cross.
func setTTL(conn *net.UDPConn, hops int) error {
	return setOption(conn, unix.IPPROTO_IP, unix.IP_TTL, hops)
}

// setSegment makes the kernel cut what is written into packets of that size.
func setSegment(conn *net.UDPConn, size int) error {
	return setOption(conn, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
}

func setOption(conn *net.UDPConn, level, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), level, option, value)
	})
	return errors.Join(err, failed)
}

// attach makes a device a port of a bridge and raises it.
func (ns *namespace) attach(device string, bridge netlink.Link) error {
	link, err := ns.links.LinkByName(device)
	if err == nil {
		err = errors.Join(ns.links.LinkSetMaster(link, bridge), ns.links.LinkSetUp(link))
	}
	if err != nil {
		return fmt.Errorf("attaching %s to %s in %s: %w", device, bridge.Attrs().Name, ns.name, err)
	}
	return nil
}
