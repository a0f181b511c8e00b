package peerconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
)

const (
	maxForeign   = 8                      // nodes of other peers that a host stays connected to
	nodePatience = 5 * time.Second        // for a node before the next one is asked
	nextAddress  = 250 * time.Millisecond // before another address of the same node is tried too (RFC 8305)
)

// nodes are the rendezvous nodes a host talks to: its own, and those that
// tickets named.
type nodes struct {
	h *Host

	mu      sync.Mutex // guards clients
	clients map[sallyport.NodeURL]*rendezvous.Client
	foreign []sallyport.NodeURL // those of clients that are not ours, the longest unused first
}

func newNodes(h *Host) *nodes {
	return &nodes{h: h, clients: make(map[sallyport.NodeURL]*rendezvous.Client)}
}

func (n *nodes) startHome() {
	for _, url := range n.h.cfg.Nodes {
		n.client(url)
	}
}

func (n *nodes) isHome(url sallyport.NodeURL) bool {
	for _, home := range n.h.cfg.Nodes {
		if home == url {
			return true
		}
	}
	return false
}

// client returns the client for a node, starting it where there is none.
func (n *nodes) client(url sallyport.NodeURL) (*rendezvous.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.clients[url]; c != nil {
		if i := slices.Index(n.foreign, url); i >= 0 {
			n.foreign = append(slices.Delete(n.foreign, i, i+1), url)
		}
		return c, nil
	}
	var (
		c   *rendezvous.Client
		err error
	)
	home := n.isHome(url)
	if !home && len(n.foreign) >= maxForeign {
		n.dropForeign()
	}
	cfg := rendezvous.Config{
		Identity:     n.h.id,
		Node:         url,
		DialContext:  n.h.dialNode,
		Logger:       n.h.log,
		OnRegistered: n.h.stun.registered,
	}
	if home && n.h.cfg.Allow != nil {
		cfg.OnCall = func(call *rendezvous.Call) { n.h.homeCall(c, call) }
	}
	if c, err = rendezvous.New(cfg); err != nil {
		return nil, err
	}
	n.clients[url] = c
	if !home {
		n.foreign = append(n.foreign, url)
	}
	n.h.tasks.Go(func() { c.Run(n.h.ctx) }) // ends with the host
	return c, nil
}

// poke asks the home nodes for a sign of life, so that a client whose node has
// restarted notices now and registers again.
func (n *nodes) poke(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	var wg sync.WaitGroup
	for _, url := range n.h.cfg.Nodes {
		if c, err := n.client(url); err == nil {
			wg.Go(func() { c.Present(ctx, n.h.PeerID()) })
		}
	}
	wg.Wait()
}

// dropForeign leaves the foreign node that was not used for longest. The caller
// holds the mutex.
func (n *nodes) dropForeign() {
	url := n.foreign[0]
	n.foreign = slices.Clone(n.foreign[1:])
	c := n.clients[url]
	delete(n.clients, url)
	n.h.tasks.Go(func() { c.Close() })
}

func (n *nodes) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.clients {
		c.Close()
	}
}

// readyNode is a node that a call can be placed through now.
type readyNode struct {
	url    sallyport.NodeURL
	client *rendezvous.Client
	reg    rendezvous.Registration
}

// firstReady returns the first of the nodes, in their order, that is ready now,
// or else the first to get ready; or why none did.
func (n *nodes) firstReady(ctx context.Context, urls []sallyport.NodeURL) (readyNode, []Attempt) {
	var failures []Attempt
	var waiting []readyNode
	now, cancel := context.WithCancel(ctx)
	cancel()
	for _, url := range urls {
		c, err := n.client(url)
		if err != nil {
			failures = append(failures, nodeAttempt(url, err))
			continue
		}
		if reg, err := c.Ready(now); err == nil { // without waiting
			return readyNode{url, c, reg}, nil
		}
		waiting = append(waiting, readyNode{url: url, client: c})
	}
	return n.race(ctx, waiting, failures)
}

func (n *nodes) race(ctx context.Context, waiting []readyNode, failures []Attempt) (readyNode, []Attempt) {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	type outcome struct {
		readyNode
		err error
	}
	outcomes := make(chan outcome, len(waiting))
	for _, w := range waiting {
		go func() { // ends with ctx
			var err error
			w.reg, err = w.client.Ready(ctx)
			outcomes <- outcome{w, err}
		}()
	}
	for range waiting {
		o := <-outcomes
		if o.err == nil {
			return o.readyNode, nil
		}
		failures = append(failures, nodeAttempt(o.url, o.err))
	}
	return readyNode{}, failures
}

// ready waits for the first home node.
func (n *nodes) ready(ctx context.Context) error {
	if len(n.h.cfg.Nodes) == 0 {
		return fmt.Errorf("%w: none is configured", ErrNoNode)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, len(n.h.cfg.Nodes))
	for _, url := range n.h.cfg.Nodes {
		c, err := n.client(url)
		if err != nil {
			results <- err
			continue
		}
		go func() { // ends with ctx
			_, err := c.Ready(ctx)
			if err != nil {
				err = fmt.Errorf("node %s: %w", url.HostPort(), err)
			}
			results <- err
		}()
	}
	var failures []error
	for range n.h.cfg.Nodes {
		err := <-results
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}
	return fmt.Errorf("%w: %w", ErrNoNode, errors.Join(failures...))
}

// dialNode opens a QUIC connection to a node from the host's socket, trying the
// node's addresses one after the other with a head start for each.
func (h *Host) dialNode(ctx context.Context, hostport string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
	addrs, err := h.resolve(ctx, hostport)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn *quic.Conn
		err  error
	}
	results := make(chan result, len(addrs))
	for i, addr := range addrs {
		go func() { // ends with ctx
			select {
			case <-time.After(time.Duration(i) * nextAddress):
				conn, err := h.dialNodeAt(ctx, addr, tlsConf, conf)
				results <- result{conn, err}
			case <-ctx.Done():
				results <- result{nil, ctx.Err()}
			}
		}()
	}
	var failures []error
	for i := range addrs {
		r := <-results
		if r.err != nil {
			failures = append(failures, r.err)
			continue
		}
		cancel()
		go func() { // the others end at once
			for range len(addrs) - i - 1 {
				if late := <-results; late.conn != nil {
					late.conn.CloseWithError(0, "")
				}
			}
		}()
		return r.conn, nil
	}
	return nil, errors.Join(failures...)
}

func (h *Host) dialNodeAt(ctx context.Context, addr netip.AddrPort, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
	release := h.sock.admit(addr)
	conn, err := h.quic.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, conf)
	if err != nil {
		release()
		return nil, err
	}
	context.AfterFunc(conn.Context(), release)
	return conn, nil
}

func (h *Host) resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", portText)
	if err != nil {
		return nil, err
	}
	addrs, err := h.cfg.lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("looking up node %s: %w", host, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("node %s has no address", host)
	}
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return out, nil
}
