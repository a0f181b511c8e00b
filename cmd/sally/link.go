package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
	"github.com/sallyport-net/sallyport/rendezvous"
)

const defaultDialTimeout = 30 * time.Second

func timeoutFlag(usage string) cli.Flag {
	return durationFlag("timeout", defaultDialTimeout, usage)
}

func policyFlag() cli.Flag {
	return stringFlag("policy", "all", "which paths may be used: all, relay-only (hides this peer's addresses) or direct-only")
}

func (inv *invocation) policy() (peerconn.Policy, error) {
	switch text := inv.String("policy"); text {
	case "all":
		return peerconn.PolicyAll, nil
	case "relay-only":
		return peerconn.PolicyRelayOnly, nil
	case "direct-only":
		return peerconn.PolicyDirectOnly, nil
	default:
		return 0, usagef("--policy %q is none: use all, relay-only or direct-only", text)
	}
}

// parsePeer reads PEER or TICKET.
func parsePeer(text string) (sallyport.Ticket, error) {
	if id, err := sallyport.ParsePeerID(text); err == nil {
		return sallyport.Ticket{Peer: id}, nil
	} else if len(text) == len(id.String()) { // a ticket is longer
		return sallyport.Ticket{}, usagef("%w: copy the peer's ID again (\"sally id\" shows it there)", err)
	}
	ticket, err := sallyport.ParseTicket(text)
	if err != nil {
		return sallyport.Ticket{}, usagef("%q is neither a peer ID (56 characters) nor a ticket: %w", text, err)
	}
	return ticket, nil
}

// call is a link that this side asked for.
type call struct {
	host  *peerconn.Host
	link  *peerconn.Link
	asked time.Time // when the command asked for the peer
}

// dial reads the peer from the arguments, registers, and links to it. It prints ready and
// connected.
func (inv *invocation) dial(ctx context.Context) (*call, error) {
	ticket, err := parsePeer(inv.Args().First())
	if err != nil {
		return nil, err
	}
	nodes := ticket.Nodes
	if len(nodes) == 0 {
		if nodes, err = inv.needNodes(); err != nil {
			return nil, err
		}
	}
	host, err := inv.newHost(nodes, nil)
	if err != nil {
		return nil, err
	}
	c, err := inv.callPeer(ctx, host, ticket)
	if err != nil {
		host.Close()
		return nil, err
	}
	return c, nil
}

func (inv *invocation) callPeer(ctx context.Context, host *peerconn.Host, ticket sallyport.Ticket) (*call, error) {
	if ticket.Peer == host.PeerID() {
		return nil, usagef("%s is this peer itself: use --identity for a second key on one machine", ticket.Peer.Short())
	}
	ctx, cancel := context.WithTimeout(ctx, inv.Duration("timeout"))
	defer cancel()
	if err := inv.register(ctx, host); err != nil {
		return nil, err
	}
	inv.emit(readyEvent{Peer: host.PeerID()})
	inv.progress("calling %s …", ticket.Peer.Short())
	c := &call{host: host, asked: time.Now()}
	link, err := host.Dial(ctx, ticket)
	inv.progress("")
	if err != nil {
		return nil, dialFailure(err, inv.Duration("timeout"))
	}
	c.link = link
	inv.emit(connectedEvent{Peer: link.Peer(), Path: newPath(link.Path()), ElapsedMillis: millis(time.Since(c.asked))})
	return c, nil
}

const fixNoNode = "check the node's URL, that it runs (its /readyz says so), and that UDP to its port is let out of this network"

func (inv *invocation) register(ctx context.Context, host *peerconn.Host) error {
	inv.progress("registering at the node …")
	defer inv.progress("")
	if err := host.Ready(ctx); err != nil {
		return &failure{code: exitFailed, err: err, fix: fixNoNode}
	}
	return nil
}

func (inv *invocation) newHost(nodes []sallyport.NodeURL, allow func(sallyport.PeerID) bool) (*peerconn.Host, error) {
	id, err := inv.identity()
	if err != nil {
		return nil, err
	}
	policy, err := inv.policy()
	if err != nil {
		return nil, err
	}
	return peerconn.NewHost(peerconn.Config{
		Identity: id, Nodes: nodes, Allow: allow, Policy: policy, Logger: inv.log,
		DialTimeout: inv.Duration("timeout"),
	})
}

// close ends the link and the host.
func (c *call) close() {
	c.link.Close()
	c.host.Close()
}

// watch prints path events until the returned func is called, which ends the link and waits
// until the last one is printed.
func (inv *invocation) watch(link *peerconn.Link, moved func()) (end func()) {
	done := make(chan struct{})
	go func() { // ends with the link
		defer close(done)
		inv.printPaths(link, moved)
	}()
	return func() {
		link.Close()
		<-done
	}
}

// printPaths prints a path event for each change until the link ends, and calls moved after
// each, which may be nil.
func (inv *invocation) printPaths(link *peerconn.Link, moved func()) {
	for {
		select {
		case e := <-link.Events():
			inv.emit(newPathEvent(link.Peer(), e))
			if moved != nil {
				moved()
			}
		case <-link.Context().Done():
			inv.lastPaths(link)
			return
		}
	}
}

// lastPaths prints what happened just before the end.
func (inv *invocation) lastPaths(link *peerconn.Link) {
	for {
		select {
		case e := <-link.Events():
			inv.emit(newPathEvent(link.Peer(), e))
		default:
			return
		}
	}
}

// whyEnded says why the link is gone, and nil while it lives.
func whyEnded(link *peerconn.Link) error {
	if link.Context().Err() == nil {
		return nil
	}
	return context.Cause(link.Context())
}

// endGrace is how long a link's end may trail behind the failure of its streams.
const endGrace = 200 * time.Millisecond

// broken turns the failure of something on a link into what is reported: why the
// link broke and every path that was tried, where that is the cause.
func broken(link *peerconn.Link, err error, timeout time.Duration) error {
	select {
	case <-link.Context().Done():
	case <-time.After(endGrace):
		return dialFailure(err, timeout)
	}
	why := whyEnded(link)
	f := dialFailure(fmt.Errorf("the link broke: %w", why), timeout)
	if len(f.tried) == 0 && errors.Is(why, peerconn.ErrNoPath) {
		for _, r := range link.Paths() {
			f.tried = append(f.tried, triedLine(r))
		}
	}
	return f
}

const fixNoPath = "run \"sally doctor\" on both sides; a relay (\"sally relay\" on any reachable machine) links every pair that lets UDP out"

// dialFailure gives a failed dial its exit code, the list of what was tried, and
// what to do about it.
func dialFailure(err error, timeout time.Duration) *failure {
	f := &failure{code: exitFailed, err: err}
	if tried := (*peerconn.DialError)(nil); errors.As(err, &tried) {
		f.tried = tried.Lines()
		f.err = fmt.Errorf("linking to %s: %w", tried.Peer.Short(), tried.Err) // the list stands above
	}
	switch {
	case errors.Is(err, peerconn.ErrOffline):
		f.code, f.fix = exitOffline, "start \"sally listen\" there with the same --node, and check the peer's ID"
	case errors.Is(err, peerconn.ErrRefused):
		f.code, f.fix = exitRefused, "let the peer start \"sally listen\" with --allow and this peer's ID (\"sally id\" shows it)"
	case errors.Is(err, peerconn.ErrNoPath):
		f.fix = fixNoPath
	case errors.Is(err, rendezvous.ErrLimited):
		f.fix = "the node limits how often a peer may call: wait a minute and try again"
	case errors.Is(err, peerconn.ErrNoNode):
		f.fix = fixNoNode
	case errors.Is(err, peerconn.ErrNoAnswer):
		f.fix = "the peer is registered but silent: it may just have left; try again, and look at it there"
	case errors.Is(err, context.DeadlineExceeded):
		f.fix = fmt.Sprintf("nothing came within --timeout %v: try a longer one, and \"sally doctor\" on both sides", timeout)
	}
	return f
}
