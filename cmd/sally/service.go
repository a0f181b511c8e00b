package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport-net/sallyport/peerconn"
)

// Every stream of a link begins with a request line of the side that opened it
// and an answer line of the other:
//
//	sally/1 SERVICE [ARGUMENT]…
//	sally/1 ok            or            sally/1 no REASON
//
//	ping                   what comes in goes back
//	pipe                   the user's bytes, both ways; each side half-closes
//	settle N               answered once N pipes of this link were received to their end,
//	                       so that the caller can close the link and lose nothing
//	speed send DURATION    the caller sends until it closes; answered by "BYTES\n"
//	speed receive DURATION the callee sends for so long and closes
const (
	serviceVersion = "sally/1"
	maxServiceLine = 256
	maxSpeedTime   = time.Hour
	lineTimeout    = 30 * time.Second
)

var errServiceLine = errors.New("the peer does not speak " + serviceVersion + ": it runs another version of sally or another program")

// openService opens a stream and asks for a service. It does not wait for the
// answer: see readAnswer.
func openService(ctx context.Context, link *peerconn.Link, request ...string) (*peerconn.Stream, error) {
	stream, err := link.OpenStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	if err := writeLine(stream, strings.Join(request, " ")); err != nil {
		return nil, fmt.Errorf("asking for %s: %w", request[0], err)
	}
	return stream, nil
}

func writeLine(w io.Writer, text string) error {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	line := serviceVersion + " " + text
	_, err := io.WriteString(w, line[:min(len(line), maxServiceLine-1)]+"\n")
	return err
}

// readServiceLine reads one line without the version in front of it, and not a
// byte beyond.
func readServiceLine(r io.Reader) (string, error) {
	line, err := readLine(r)
	if err != nil {
		return "", err
	}
	text, ok := strings.CutPrefix(line, serviceVersion+" ")
	if !ok {
		return "", errServiceLine
	}
	return text, nil
}

// readLine reads up to a newline, byte by byte because what follows is not ours.
func readLine(r io.Reader) (string, error) {
	var line [maxServiceLine]byte
	for n := range line {
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return "", err
		}
		if c := line[n]; c == '\n' {
			return string(line[:n]), nil
		} else if c < ' ' || c >= 0x7f {
			return "", errServiceLine
		}
	}
	return "", errServiceLine
}

// readAnswer waits for the answer line; a "no" is an error with the peer's reason.
func readAnswer(r io.Reader) error {
	text, err := readServiceLine(r)
	if err != nil {
		return err
	}
	if text == "ok" {
		return nil
	}
	if reason, ok := strings.CutPrefix(text, "no "); ok {
		return fmt.Errorf("the peer said no: %s", reason)
	}
	return errServiceLine
}

// services answers the streams of one link.
type services struct {
	link *peerconn.Link
	// pipe takes the user's bytes and calls received once the inbound half was passed
	// on to its end; nil: there is nobody who takes them.
	pipe func(stream *peerconn.Stream, received func()) error
	// received counts pipes whose inbound half ended.
	received counter

	answering atomic.Int64 // streams, at most maxAnswered
	measuring atomic.Int64 // of them speed measurements, at most maxMeasured
}

// What one link may ask for at a time. Each stream costs a goroutine and a buffer,
// a measurement a large one.
const (
	maxAnswered = 256
	maxMeasured = 2
)

// run answers streams until the link ends.
func (s *services) run(ctx context.Context) {
	for {
		stream, err := s.link.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() { // ends with its stream, which ends with the link
			defer s.answering.Add(-1)
			if s.answering.Add(1) > maxAnswered {
				refuse(stream, "too many streams at a time")
				return
			}
			if err := s.answer(stream); err != nil {
				stream.CancelRead(0)
				stream.CancelWrite(0)
			}
		}()
	}
}

func (s *services) answer(stream *peerconn.Stream) error {
	stream.SetReadDeadline(time.Now().Add(lineTimeout))
	text, err := readServiceLine(stream)
	if err != nil {
		return err
	}
	stream.SetReadDeadline(time.Time{})
	words := strings.Fields(text)
	switch {
	case len(words) == 1 && words[0] == "ping":
		return answerPing(stream)
	case len(words) == 1 && words[0] == "pipe":
		return s.answerPipe(stream)
	case len(words) == 2 && words[0] == "settle":
		return s.answerSettle(stream, words[1])
	case len(words) == 3 && words[0] == "speed":
		defer s.measuring.Add(-1)
		if s.measuring.Add(1) > maxMeasured {
			return refuse(stream, "too many measurements at a time")
		}
		return answerSpeed(stream, words[1], words[2])
	}
	return refuse(stream, "unknown service")
}

func refuse(stream *peerconn.Stream, reason string) error {
	if err := writeLine(stream, "no "+reason); err != nil {
		return err
	}
	stream.CancelRead(0)
	return stream.Close()
}

func answerPing(stream *peerconn.Stream) error {
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	if _, err := io.Copy(onlyWriter{stream}, stream); err != nil {
		return err
	}
	return stream.Close()
}

func (s *services) answerPipe(stream *peerconn.Stream) error {
	if s.pipe == nil {
		return refuse(stream, "this side takes no data, it answers ping and speed")
	}
	err := s.pipe(stream, s.received.add)
	var busy *refusal
	if errors.As(err, &busy) {
		return refuse(stream, busy.reason)
	}
	return err
}

func (s *services) answerSettle(stream *peerconn.Stream, count string) error {
	n, err := strconv.ParseUint(count, 10, 31)
	if err != nil {
		return refuse(stream, "settle wants a number")
	}
	if err := s.received.wait(s.link.Context(), int(n)); err != nil {
		return err
	}
	if err := writeLine(stream, "ok"); err != nil {
		return err
	}
	return stream.Close()
}

// refusal is why a pipe is not taken.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

// onlyWriter hides ReadFrom and the like, so that io.Copy uses one buffer.
type onlyWriter struct{ io.Writer }

// settle asks the peer to say when it received n pipes to their end.
func settle(ctx context.Context, link *peerconn.Link, n int) error {
	stream, err := openService(ctx, link, "settle", strconv.Itoa(n))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { stream.CancelRead(0) })
	defer stop()
	return readAnswer(stream)
}
