package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport/peerconn"
)

const (
	speedBlock   = 128 << 10
	speedPatient = 30 * time.Second // beyond the duration, for what is still under way
)

func (r *runner) speedCommand() *cli.Command {
	return &cli.Command{
		Name:      "speed",
		Usage:     "measure the throughput of a link",
		ArgsUsage: "PEER|TICKET",
		Description: `Sends as fast as the path allows, or receives with --reverse, and counts what arrived.

Examples:
  sally speed TICKET
  sally speed TICKET --reverse --duration 5s`,
		Flags: []cli.Flag{
			durationFlag("duration", 10*time.Second, "how long to measure"),
			boolFlag("reverse", "the peer sends"),
			timeoutFlag("how long to try to connect"), policyFlag(),
		},
		Action: r.action("PEER|TICKET", func(ctx context.Context, inv *invocation) error {
			if d := inv.Duration("duration"); d < 100*time.Millisecond || d > maxSpeedTime {
				return usagef("--duration %v: want 100ms to %v", d, maxSpeedTime)
			}
			c, err := inv.dial(ctx)
			if err != nil {
				return err
			}
			defer c.close()
			end := inv.watch(c.link, nil)
			defer end()
			return inv.measure(ctx, c.link, end)
		}),
	}
}

// measure runs the measurement and calls end before it prints the result, which comes last.
func (inv *invocation) measure(ctx context.Context, link *peerconn.Link, end func()) error {
	limited, cancel := context.WithTimeout(ctx, inv.Duration("duration")+speedPatient)
	defer cancel()
	direction, run := "send", sendSpeed
	if inv.Bool("reverse") {
		direction, run = "receive", receiveSpeed
	}
	stream, err := openService(limited, link, "speed", direction, inv.Duration("duration").String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(limited, func() { stream.CancelRead(0); stream.CancelWrite(0) })
	defer stop()
	if err := readAnswer(stream); err != nil {
		return interruptedOr(ctx, err)
	}
	var moved atomic.Int64
	watching, unwatch := context.WithCancel(limited)
	defer unwatch()
	go inv.showSpeed(watching, &moved) // ends with watching
	start := time.Now()
	total, err := run(stream, inv.Duration("duration"), &moved)
	took := time.Since(start)
	unwatch()
	inv.progress("")
	if err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return broken(link, fmt.Errorf("measuring: %w", err), inv.Duration("timeout"))
	}
	done := speedDoneEvent{
		Bytes: total, MbitPerS: mbitPerSecond(total, took), Path: newPath(link.Path()),
		DurationMillis: millis(took), Reverse: inv.Bool("reverse"),
	}
	end()
	inv.emit(done)
	return nil
}

func mbitPerSecond(bytes int64, took time.Duration) float64 {
	return float64(int64(float64(bytes)*8/took.Seconds()/1e4)) / 100
}

// showSpeed keeps a progress line with the speed of the last second.
func (inv *invocation) showSpeed(ctx context.Context, moved *atomic.Int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := int64(0); ; {
		select {
		case <-tick.C:
			now := moved.Load()
			inv.progress("%.1f Mbit/s, %s so far", mbitPerSecond(now-last, time.Second), byteCount(now))
			last = now
		case <-ctx.Done():
			return
		}
	}
}

// sendSpeed sends for d and returns how many bytes the peer counted.
func sendSpeed(stream *peerconn.Stream, d time.Duration, moved *atomic.Int64) (int64, error) {
	if err := flood(stream, d, moved); err != nil {
		return 0, err
	}
	line, err := readLine(stream)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(line, 10, 64)
}

func receiveSpeed(stream *peerconn.Stream, _ time.Duration, moved *atomic.Int64) (int64, error) {
	return drain(stream, moved)
}

// flood writes zeros for d and half-closes.
func flood(stream *peerconn.Stream, d time.Duration, moved *atomic.Int64) error {
	block := make([]byte, speedBlock)
	stream.SetWriteDeadline(time.Now().Add(d + speedPatient))
	for end := time.Now().Add(d); time.Now().Before(end); {
		n, err := stream.Write(block)
		moved.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return stream.Close()
}

func drain(stream *peerconn.Stream, moved *atomic.Int64) (int64, error) {
	block := make([]byte, speedBlock)
	for {
		n, err := stream.Read(block)
		moved.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return moved.Load(), nil
		}
		if err != nil {
			return moved.Load(), err
		}
	}
}

// answerSpeed is the callee's half.
func answerSpeed(stream *peerconn.Stream, direction, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil || d <= 0 || d > maxSpeedTime || direction != "send" && direction != "receive" {
		return refuse(stream, "speed wants send or receive and a duration of at most 1h")
	}
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	var moved atomic.Int64
	if direction == "receive" {
		return flood(stream, d, &moved)
	}
	stream.SetReadDeadline(time.Now().Add(d + speedPatient))
	total, err := drain(stream, &moved)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stream, total); err != nil {
		return err
	}
	return stream.Close()
}
