package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

const (
	registerPatience = 5 * time.Second // before a user is told that no node answers; the trying goes on

	targetTimeout = 10 * time.Second // for connecting to --to
	lingerTimeout = 5 * time.Second  // for the dialing side to close a link that is done
)

func (r *runner) listenCommand() *cli.Command {
	return &cli.Command{
		Name:  "listen",
		Usage: "wait for peers and accept their links",
		Description: `Prints a ticket that others paste after "sally dial" or "sally ping". Nobody may call unless
allowed. Every link may measure with "sally ping" and "sally speed"; what "sally dial"
sends goes to standard output for the first one that comes, or to --echo or --to.

Examples:
  sally listen --node URL --allow PEER                 # one link on this terminal
  sally listen --allow PEER > photos.tar               # receive a file
  sally listen --allow any --echo                      # to try things out
  sally listen --allow PEER --to 127.0.0.1:22          # a TCP service for one peer`,
		Flags: []cli.Flag{
			listFlag("allow", "a `PEER` that may call, or \"any\"; repeatable"),
			boolFlag("echo", "send back what comes"),
			stringFlag("to", "", "connect each stream to the TCP service at `HOST:PORT`"),
			policyFlag(),
		},
		Action: r.action("", func(ctx context.Context, inv *invocation) error {
			ctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			l, err := newListener(inv, cancel)
			if err != nil {
				return err
			}
			return l.run(ctx)
		}),
	}
}

// allowed turns --allow into the question a host asks about a caller.
func (inv *invocation) allowed() (func(sallyport.PeerID) bool, error) {
	peers := map[sallyport.PeerID]bool{}
	anybody := false
	for _, text := range inv.StringSlice("allow") {
		if text == "any" {
			anybody = true
			continue
		}
		id, err := sallyport.ParsePeerID(text)
		if err != nil {
			return nil, usagef("--allow %q: %w: use a peer's ID (\"sally id\" there) or any", text, err)
		}
		peers[id] = true
	}
	if len(peers) == 0 && !anybody {
		return nil, usagef("nobody may call: use --allow PEER (\"sally id\" on the other side shows it) or --allow any")
	}
	return func(id sallyport.PeerID) bool { return anybody || peers[id] }, nil
}

// listener is the listen command at work.
type listener struct {
	*invocation
	host  *peerconn.Host
	done  context.CancelCauseFunc // ends the command
	stdio sync.Mutex              // held by the one pipe that has stdin and stdout
}

var errStdioDone = errors.New("the one link on standard input and output has ended")

func newListener(inv *invocation, done context.CancelCauseFunc) (*listener, error) {
	allow, err := inv.allowed()
	if err != nil {
		return nil, err
	}
	nodes, err := inv.needNodes()
	if err != nil {
		return nil, err
	}
	if inv.Bool("echo") && inv.String("to") != "" {
		return nil, usagef("--echo and --to exclude each other: choose one")
	}
	if to := inv.String("to"); to != "" {
		if _, _, err := net.SplitHostPort(to); err != nil {
			return nil, usagef("--to %q: want HOST:PORT, as in 127.0.0.1:22", to)
		}
	}
	if inv.onStdio() {
		inv.dataOnStdout()
	}
	host, err := inv.newHost(nodes, allow)
	if err != nil {
		return nil, err
	}
	return &listener{invocation: inv, host: host, done: done}, nil
}

func (inv *invocation) onStdio() bool { return !inv.Bool("echo") && inv.String("to") == "" }

// run accepts links until the command is interrupted or its one pipe has ended.
func (l *listener) run(ctx context.Context) error {
	defer l.host.Close()
	go l.announce(ctx) // ends with ctx
	var links sync.WaitGroup
	defer links.Wait()
	defer l.host.Close() // ends the links before they are waited for
	for {
		link, err := l.host.Accept(ctx)
		if ctx.Err() != nil {
			return l.ended(ctx)
		}
		if err != nil {
			return fmt.Errorf("accepting links: %w", err)
		}
		links.Go(func() { l.serve(ctx, link) })
	}
}

func (l *listener) ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, errStdioDone) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// announce prints ready once the host is registered, however long that takes.
func (l *listener) announce(ctx context.Context) {
	for warned := false; ; warned = true {
		attempt, cancel := context.WithTimeout(ctx, registerPatience)
		l.progress("registering at the node …")
		err := l.host.Ready(attempt)
		cancel()
		l.progress("")
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if !warned {
			l.note("sally: no node could be reached yet, still trying: %v", err)
		}
	}
	ticket := l.host.Ticket().String()
	l.emit(readyEvent{Peer: l.host.PeerID(), Ticket: ticket})
	l.hint("on the other side: sally ping --until-direct %s", ticket)
}

// serve answers one link until it ends.
func (l *listener) serve(ctx context.Context, link *peerconn.Link) {
	defer link.Close()
	l.emit(acceptedEvent{Peer: link.Peer(), Path: newPath(link.Path())})
	end := l.watch(link, nil)
	s := &services{link: link, pipe: l.pipe(link)}
	s.run(ctx)
	why := "this side ended"
	if err := whyEnded(link); err != nil {
		why = err.Error()
	}
	end()
	l.emit(closedEvent{Peer: link.Peer(), Why: why})
}

// pipe returns what takes the bytes of "sally dial".
func (l *listener) pipe(link *peerconn.Link) func(*peerconn.Stream, func()) error {
	switch {
	case l.Bool("echo"):
		return echo
	case l.String("to") != "":
		return func(stream *peerconn.Stream, received func()) error {
			return forward(link.Context(), stream, received, l.String("to"))
		}
	}
	return func(stream *peerconn.Stream, received func()) error {
		return l.pipeStdio(link, stream, received)
	}
}

func echo(stream *peerconn.Stream, received func()) error {
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	if _, err := io.Copy(onlyWriter{stream}, stream); err != nil {
		return err
	}
	received()
	return stream.Close()
}

// forward joins the stream with a TCP connection to the target until both directions have ended or
// the link's ctx does.
func forward(ctx context.Context, stream *peerconn.Stream, received func(), target string) error {
	dialer := net.Dialer{Timeout: targetTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return &refusal{"the service behind this peer cannot be reached"}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	tcp := conn.(*net.TCPConn)
	back := make(chan error, 1)
	go func() { back <- sendAll(stream, tcp) }() // ends with the connection, which ends below
	if _, err := io.Copy(tcp, stream); err != nil {
		stream.CancelRead(0) // the service takes no more; what it said before still goes back
	} else {
		tcp.CloseWrite() // fails where the service has gone, which is no loss any more
		received()
	}
	return <-back
}

// pipeStdio gives standard input and output to the first pipe and ends the command after it.
func (l *listener) pipeStdio(link *peerconn.Link, stream *peerconn.Stream, received func()) error {
	if !l.stdio.TryLock() { // never unlocked: there is one pipe
		return &refusal{"this side serves one pipe only, and has it already"}
	}
	err := l.joinStdio(link, stream, received)
	if err == nil {
		select {
		case <-link.Context().Done(): // the dialing side has everything too
		case <-time.After(lingerTimeout):
		}
		err = errStdioDone
	}
	l.done(err)
	return err
}

func (l *listener) joinStdio(link *peerconn.Link, stream *peerconn.Stream, received func()) error {
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- sendAll(stream, l.in) }() // ends with the input or the stream; a terminal is not waited for
	if _, err := io.Copy(onlyWriter{l.stdout()}, stream); err != nil {
		return fmt.Errorf("receiving: %w", err)
	}
	received()
	select {
	case err := <-sent:
		return err
	case <-link.Context().Done():
	}
	select {
	case err := <-sent: // the dialing side ends the link once it has everything
		return err
	case <-time.After(time.Second):
		return whyEnded(link)
	}
}
