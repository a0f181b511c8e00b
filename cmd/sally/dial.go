package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport/peerconn"
)

const settleTimeout = 30 * time.Second

func (r *runner) dialCommand() *cli.Command {
	return &cli.Command{
		Name:      "dial",
		Usage:     "link this terminal or pipe to a peer",
		ArgsUsage: "PEER|TICKET",
		Description: `Standard input goes to the peer, what the peer sends goes to standard output. The end of
the input is passed on; the command ends when both directions have ended, after the peer
confirmed that it has every byte. Messages go to standard error.

Examples:
  tar c photos | sally dial TICKET            # there: sally listen --allow PEER | tar x
  sally dial TICKET                           # chat with "sally listen --allow PEER"
  ssh -o ProxyCommand="sally dial TICKET" me@there   # there: sally listen --allow PEER --to 127.0.0.1:22`,
		Flags: []cli.Flag{timeoutFlag("how long to try before giving up"), policyFlag()},
		Action: r.action("PEER|TICKET", func(ctx context.Context, inv *invocation) error {
			inv.dataOnStdout()
			c, err := inv.dial(ctx)
			if err != nil {
				return err
			}
			defer c.close()
			end := inv.watch(c.link, nil)
			err = inv.dialPipe(ctx, c.link)
			switch {
			case err != nil && ctx.Err() != nil:
				err = errInterrupted
			case err != nil:
				err = broken(c.link, err, inv.Duration("timeout"))
			}
			end()
			inv.emit(closedEvent{Peer: c.link.Peer(), Why: whyClosed(err)})
			return err
		}),
	}
}

func (inv *invocation) dialPipe(ctx context.Context, link *peerconn.Link) error {
	stream, err := openService(ctx, link, "pipe")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { stream.CancelRead(0); stream.CancelWrite(0) })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- sendAll(stream, inv.in) }() // ends with the input or the stream; the process does not wait for a terminal
	if err := readAnswer(stream); err != nil {
		return err
	}
	if _, err := io.Copy(onlyWriter{inv.stdout()}, stream); err != nil {
		return fmt.Errorf("receiving: %w", err)
	}
	select {
	case err = <-sent:
	case <-link.Context().Done():
		err = whyEnded(link)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := settle(ctx, link, 1); err != nil {
		return fmt.Errorf("the peer did not confirm that it has everything: %w", err)
	}
	return nil
}

// sendAll copies r to the stream and half-closes it.
func sendAll(stream *peerconn.Stream, r io.Reader) error {
	if _, err := io.Copy(onlyWriter{stream}, r); err != nil {
		stream.CancelWrite(0)
		return err
	}
	return stream.Close()
}

func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func whyClosed(err error) string {
	switch {
	case err == nil:
		return "both directions ended"
	case errors.Is(err, errInterrupted):
		return "interrupted here"
	}
	return err.Error()
}
