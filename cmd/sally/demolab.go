package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
	"github.com/sallyport-net/sallyport/relay"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous/server"
)

const (
	demoUplink   = 20 * time.Millisecond
	demoNodeName = "node.demo"
)

// demoLab is an internet in memory with one node.
type demoLab struct {
	*invocation
	net    *natlab.Internet
	events chan natlab.Event // from the tap; full: dropped
	node   *natlab.Host
	url    sallyport.NodeURL
	conn   net.PacketConn
	server *server.Server
	relay  *relayserver.Server
	done   sync.WaitGroup
}

// demoPeer is a host in its home.
type demoPeer struct {
	name string
	site *natlab.Site
	host *peerconn.Host
}

func newDemoLab(inv *invocation) (l *demoLab, err error) {
	l = &demoLab{invocation: inv, events: make(chan natlab.Event, 256)}
	l.net = natlab.New(natlab.Config{Seed: uint64(time.Now().UnixNano()), Link: natlab.LinkConfig{Latency: demoUplink}, Tap: l.tap})
	l.node = l.net.Host("node", natlab.HostConfig{IPv6: true, Link: natlab.LinkConfig{Latency: time.Microsecond}})
	if err := l.serve(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// tap passes on what is dropped or delivered. It runs with the lab's lock held.
func (l *demoLab) tap(e natlab.Event) {
	if e.Kind == natlab.Dropped || e.Kind == natlab.Delivered {
		select {
		case l.events <- e:
		default:
		}
	}
}

func (l *demoLab) addrs() (addrs []netip.Addr) {
	for _, p := range l.node.Addrs() {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// serve starts the node as "sally serve" does.
func (l *demoLab) serve() (err error) {
	id, err := sallyport.NewIdentity()
	if err != nil {
		return err
	}
	l.url = sallyport.NodeURL{ID: id.PeerID(), Host: demoNodeName, Port: sallyport.DefaultNodePort}
	if l.conn, err = l.node.ListenPacket("udp", fmt.Sprintf(":%d", l.url.Port)); err != nil {
		return err
	}
	secret := newSecret()
	static := server.StaticRelay{Name: demoNodeName, ID: id.PeerID(), Secret: func() []byte { return secret }}
	relayed := relayserver.Config{
		Secrets:      func() [][]byte { return [][]byte{secret} },
		ListenPacket: l.node.ListenPacket,
		Interfaces:   func() ([]netip.Addr, error) { return l.addrs(), nil },
		Logger:       l.log,
	}
	for _, a := range l.addrs() {
		static.Addrs = append(static.Addrs, netip.AddrPortFrom(a, l.url.Port))
		relayed.Relay = append(relayed.Relay, relayserver.RelayAddr{Listen: a})
	}
	l.server, err = server.New(server.Config{
		Identity: id, Conns: []net.PacketConn{l.conn}, Advertise: static.Addrs[:1],
		Relays: []server.StaticRelay{static}, Mint: relay.MintCredential, Logger: l.log,
	})
	if err != nil {
		return err
	}
	relayed.Conns = []net.PacketConn{l.server.TURN(0)}
	if l.relay, err = relayserver.New(relayed); err != nil {
		return err
	}
	l.done.Go(func() { l.server.Run(context.Background()) }) // ends with close
	return nil
}

func (l *demoLab) close() {
	if l.relay != nil {
		l.relay.Close()
	}
	if l.server != nil {
		l.server.Close()
	}
	l.done.Wait()
	if l.conn != nil {
		l.conn.Close()
	}
	l.net.Close()
}

// peer places a peer behind a NAT of the kind.
func (l *demoLab) peer(kind natlab.SiteKind, name string) (*demoPeer, error) {
	site, err := l.net.Site(kind, name)
	if err != nil {
		return nil, err
	}
	id, err := sallyport.NewIdentity()
	if err != nil {
		return nil, err
	}
	p := &demoPeer{name: name, site: site}
	p.host, err = peerconn.NewHost(peerconn.Config{
		Identity:     id,
		Nodes:        []sallyport.NodeURL{l.url},
		Allow:        func(sallyport.PeerID) bool { return true },
		DialTimeout:  demoPatience,
		Logger:       l.log.With("peer", name),
		ListenPacket: site.Host.ListenPacket,
		Interfaces: func() ([]holepunch.Interface, error) {
			return []holepunch.Interface{{Name: "eth0", Prefixes: site.Host.Addrs()}}, nil
		},
		LookupHost: func(context.Context, string) ([]netip.Addr, error) { return l.addrs(), nil },
	})
	return p, err
}

func (p *demoPeer) ticket() sallyport.Ticket { return p.host.Ticket() }

// outer lists the addresses that the world sees the peer's packets come from.
func (p *demoPeer) outer() (addrs []netip.Addr) {
	for _, prefix := range p.site.Host.Addrs() {
		addrs = append(addrs, prefix.Addr())
	}
	for _, r := range []*natlab.Router{p.site.Home, p.site.Carrier} {
		if r != nil {
			addrs = append(addrs, r.External()...)
		}
	}
	return addrs
}

// at reports whether the host or router of that name belongs to the peer's site.
func (p *demoPeer) at(name string) bool {
	return name == p.name || strings.HasPrefix(name, p.name+"-")
}

// narration tells what packets between the two peers meet, each thing once.
type narration struct {
	quit chan struct{}
	done chan struct{}
}

func (l *demoLab) narrate(d *demo) *narration {
	n := &narration{quit: make(chan struct{}), done: make(chan struct{})}
	go func() { // ends with stop
		defer close(n.done)
		told := map[string]bool{}
		for {
			select {
			case e := <-l.events:
				if text := d.tell(e); text != "" && !told[text] {
					told[text] = true
					d.step("%s", text)
				}
			case <-n.quit:
				return
			}
		}
	}()
	return n
}

func (n *narration) stop() {
	close(n.quit)
	<-n.done
}

// tell puts an event into words, "" for what is not worth telling.
func (d *demo) tell(e natlab.Event) string {
	from, to := d.direct(e)
	switch {
	case from == nil:
		return ""
	case errors.Is(e.Err, natlab.ErrTTL):
		return fmt.Sprintf("a packet of %s's opens %s's own NAT and dies in the internet, as it is meant to", from.name, from.name)
	case errors.Is(e.Err, natlab.ErrNoMapping), errors.Is(e.Err, natlab.ErrFiltered):
		return fmt.Sprintf("a packet of %s's reaches %s's NAT and is dropped: %s has not sent to where it comes from", from.name, to.name, to.name)
	case e.Kind == natlab.Delivered && e.At == to.name:
		return fmt.Sprintf("a packet of %s's gets through to %s: the hole is open in this direction", from.name, to.name)
	}
	return ""
}
