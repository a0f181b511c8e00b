package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport/peerconn"
)

const (
	pingInterval       = time.Second
	untilDirectCadence = 200 * time.Millisecond
)

func (r *runner) pingCommand() *cli.Command {
	return &cli.Command{
		Name:      "ping",
		Usage:     "link to a peer and measure the round trip",
		ArgsUsage: "PEER|TICKET",
		Description: `Every "sally listen" answers it. The path of each answer is shown: lan, direct, or relay. A link may
start through a relay and move; --until-direct ends the command as soon as an answer came over
a direct path, and fails with exit code 3 when none did.

Examples:
  sally ping TICKET                    # until interrupted
  sally ping TICKET -c 3 -i 200ms
  sally ping --until-direct TICKET     # did the hole punching work?`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, EnvVars: env("count"), Usage: "stop after `N` pings", DefaultText: "no end"},
			&cli.DurationFlag{Name: "interval", Aliases: []string{"i"}, EnvVars: env("interval"), Usage: "time between pings", DefaultText: "1s; 200ms until direct"},
			boolFlag("until-direct", "stop at the first answer over a direct path"),
			timeoutFlag("how long to try to connect, and then to get direct"), policyFlag(),
		},
		Action: r.action("PEER|TICKET", func(ctx context.Context, inv *invocation) error {
			p, err := newPinger(inv)
			if err != nil {
				return err
			}
			c, err := inv.dial(ctx)
			if err != nil {
				return err
			}
			defer c.close()
			p.call = c
			return p.run(ctx)
		}),
	}
}

// pinger is the ping command at work.
type pinger struct {
	*invocation
	*call
	count       int // 0: no end
	interval    time.Duration
	untilDirect bool
	timeout     time.Duration // for getting direct, and for the last answers
	moved       chan struct{} // the path changed: ping at once
	end         func()        // ends the link and the printing of its path events

	mu     sync.Mutex // guards what follows
	sentAt map[uint64]time.Time
	done   pingDoneEvent
}

func newPinger(inv *invocation) (*pinger, error) {
	p := &pinger{
		invocation: inv, count: inv.Int("count"), interval: inv.Duration("interval"),
		untilDirect: inv.Bool("until-direct"), timeout: inv.Duration("timeout"),
		moved: make(chan struct{}, 1), sentAt: map[uint64]time.Time{},
	}
	switch {
	case p.count < 0 || p.count == 0 && inv.IsSet("count"):
		return nil, usagef("--count %d: want 1 or more", p.count)
	case p.interval < 0 || inv.IsSet("interval") && p.interval < time.Millisecond:
		return nil, usagef("--interval %v: want 1ms or more", p.interval)
	case p.interval == 0 && p.untilDirect:
		p.interval = untilDirectCadence
	case p.interval == 0:
		p.interval = pingInterval
	}
	return p, nil
}

var (
	errUntilDirect = errors.New("not direct")
	errNoAnswer    = errors.New("the last pings were not answered")
)

func (p *pinger) run(ctx context.Context) error {
	stream, err := openService(ctx, p.link, "ping")
	if err != nil {
		return err
	}
	p.end = p.watch(p.link, func() {
		select {
		case p.moved <- struct{}{}:
		default:
		}
	})
	pings, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if p.untilDirect {
		timer := time.AfterFunc(p.timeout, func() { stop(errUntilDirect) })
		defer timer.Stop()
	}
	unblock := context.AfterFunc(pings, func() { stream.CancelRead(0); stream.CancelWrite(0) })
	defer unblock()
	go func() { stop(p.receive(stream)) }() // ends with the stream
	err = p.send(pings, stream)
	last := time.AfterFunc(p.timeout, func() { stop(errNoAnswer) }) // of what was sent last
	defer last.Stop()
	<-pings.Done()
	if err == nil {
		err = context.Cause(pings)
	}
	if errors.Is(err, errPingsDone) && !p.untilDirect {
		// The node carries a few answers while a path is looked for: that is no link yet.
		if waited := p.link.WaitPath(ctx); waited != nil {
			err = waited
		}
	}
	return p.finish(ctx, err)
}

// send pings until ctx ends or the count is reached, then half-closes.
func (p *pinger) send(ctx context.Context, stream *peerconn.Stream) error {
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for seq := uint64(1); ; seq++ {
		p.mu.Lock()
		p.sentAt[seq] = time.Now()
		p.done.Sent++
		p.mu.Unlock()
		if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, seq)); err != nil {
			return causeOr(ctx, err)
		}
		if p.count > 0 && seq >= uint64(p.count) {
			return stream.Close()
		}
		select {
		case <-tick.C:
		case <-p.moved:
		case <-ctx.Done():
			return nil
		}
	}
}

func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

var errPingsDone = errors.New("every ping was answered")

// receive prints pongs; it returns why it stopped, errPingsDone where that is as asked.
func (p *pinger) receive(stream *peerconn.Stream) error {
	if err := readAnswer(stream); err != nil {
		return err
	}
	for {
		var frame [8]byte
		if _, err := io.ReadFull(stream, frame[:]); errors.Is(err, io.EOF) {
			return errPingsDone
		} else if err != nil {
			return fmt.Errorf("waiting for an answer: %w", err)
		}
		pong, ok := p.pong(binary.BigEndian.Uint64(frame[:]))
		if !ok {
			return errServiceLine
		}
		p.emit(pong)
		if p.untilDirect && pong.Path.direct() {
			return errPingsDone
		}
	}
}

func (p *pinger) pong(seq uint64) (pongEvent, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent, ok := p.sentAt[seq]
	delete(p.sentAt, seq)
	now := newPath(p.link.Path())
	p.done.Received++
	p.done.Direct = now.direct()
	if now.direct() && p.done.DirectAfterMillis == nil {
		after := millis(time.Since(p.asked))
		p.done.DirectAfterMillis = &after
	}
	return pongEvent{Seq: int(seq), RTTMillis: millis(time.Since(sent)), Path: now}, ok
}

// finish prints done and decides the exit code.
func (p *pinger) finish(ctx context.Context, err error) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	last := p.link.Path()
	done.Path = newPath(last)
	tried := p.link.Paths()
	asked := errors.Is(err, errPingsDone) || errors.Is(err, errUntilDirect)
	if !asked && ctx.Err() == nil {
		err = broken(p.link, err, p.timeout)
	}
	p.end() // so that done comes last
	p.emit(done)
	endless := p.count == 0 && !p.untilDirect
	switch {
	case errors.Is(err, errPingsDone) && (done.DirectAfterMillis != nil || !p.untilDirect):
		return nil
	case last.Kind <= peerconn.PathNode && errors.Is(err, errUntilDirect):
		return noPath(tried) // the node is none that counts
	case errors.Is(err, errUntilDirect), errors.Is(err, errPingsDone):
		return p.notDirect(done, tried)
	case ctx.Err() != nil && endless && done.Received > 0:
		return nil // this is how an endless ping ends
	case ctx.Err() != nil:
		return errInterrupted
	}
	return err
}

func noPath(tried []peerconn.PathReport) error {
	f := &failure{code: exitFailed, err: peerconn.ErrNoPath, fix: fixNoPath}
	for _, r := range tried {
		f.tried = append(f.tried, triedLine(r))
	}
	return f
}

func triedLine(r peerconn.PathReport) string {
	why := r.Why
	if why == "" {
		why = r.State.String()
	}
	return r.Path.String() + ": " + why
}

// notDirect lists the paths that were tried instead.
func (p *pinger) notDirect(done pingDoneEvent, tried []peerconn.PathReport) error {
	f := &failure{code: exitNotAs,
		err: fmt.Errorf("connected, but not direct within %v: %s", p.timeout, done.Path),
		fix: "run \"sally doctor\" on both sides: it says which of the two networks is in the way"}
	for _, r := range tried {
		f.tried = append(f.tried, triedLine(r))
	}
	return f
}
