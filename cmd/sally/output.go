package main

// The rules of output.
//
//  1. Results go to stdout; progress, hints, warnings and logs to stderr.
//  2. With --json every result is an event: one JSON object a line, with "event" and
//     "t_ms" (milliseconds since the command started) first. The names and fields
//     in events.go are a promise: fields are added, never renamed or removed.
//  3. Where stdout carries the user's data (dial, listen on stdio), results go to stderr
//     in either form.
//  4. What a terminal shows and a pipe does not: progress lines, colour (unless
//     NO_COLOR is set), and the hint what to do next.
//  5. A failure ends with "sally: what happened" on stderr, after the list of what
//     was tried, and with an exit code of exit.go. Wrong usage is one line.
//  6. A peer's address is part of a result (it is the user's own link) and of no log
//     line above debug.

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"
)

// event is one result: its JSON object comes from its fields, its line for
// people from human, where "" prints nothing.
type event interface {
	name() string
	human(s style) string
}

// output writes results and messages; it is safe for concurrent use.
type output struct {
	start time.Time
	json  bool
	clock bool // lines for people begin with the time

	mu       sync.Mutex // guards the writers and status
	results  io.Writer
	messages io.Writer
	status   bool // a progress line stands on the terminal

	data     io.Writer // for the user's bytes
	paint    style
	terminal bool // messages is a terminal
}

func newOutput(stdout, stderr io.Writer) *output {
	return &output{
		start: time.Now(), results: stdout, messages: stderr, data: stdout,
		paint: style(isTerminal(stdout) && colourWanted()), terminal: isTerminal(stderr),
	}
}

// dataOnStdout leaves stdout to the user's data: rule 3.
func (o *output) dataOnStdout() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.results = o.messages
	o.paint = style(o.terminal && colourWanted())
}

// emit prints one result.
func (o *output) emit(e event) {
	line := e.human(o.paint)
	if o.clock && line != "" {
		line = o.paint.dim(fmt.Sprintf("%7.0f ms", millis(time.Since(o.start)))) + "  " + line
	}
	if o.json {
		line = o.object(e)
	}
	if line == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clearStatus()
	fmt.Fprintln(o.results, line)
}

func (o *output) object(e event) string {
	head := fmt.Sprintf(`{"event":%q,"t_ms":%v`, e.name(), millis(time.Since(o.start)))
	body, err := json.Marshal(e)
	if err != nil {
		return head + fmt.Sprintf(`,"error":%q}`, err)
	}
	if fields := strings.TrimPrefix(string(body), "{"); fields != "}" {
		return head + "," + fields
	}
	return head + "}"
}

// stdout is where the user's data goes. Nothing else may be written there once dataOnStdout
// was called.
func (o *output) stdout() io.Writer { return o.data }

// note prints one message for people to stderr.
func (o *output) note(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clearStatus()
	fmt.Fprintln(o.messages, visible(fmt.Sprintf(format, args...)))
}

// visible replaces what would command a terminal instead of showing on it: a peer, node or relay
// may have chosen some of the words.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, text)
}

// hint prints a message that only a person at a terminal has use for.
func (o *output) hint(format string, args ...any) {
	if o.terminal && !o.json {
		o.note(format, args...)
	}
}

// progress replaces the progress line of a terminal; "" removes it.
func (o *output) progress(format string, args ...any) {
	if !o.terminal || o.json {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clearStatus()
	if format != "" {
		fmt.Fprintf(o.messages, format, args...)
		o.status = true
	}
}

func (o *output) clearStatus() {
	if o.status {
		fmt.Fprint(o.messages, "\r\x1b[2K")
		o.status = false
	}
}

// Write lets the logger share stderr with everything else.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clearStatus()
	return o.messages.Write(p)
}

// style paints words on a terminal; false paints nothing.
type style bool

func (s style) green(text string) string  { return s.sgr("32", text) }
func (s style) yellow(text string) string { return s.sgr("33", text) }
func (s style) red(text string) string    { return s.sgr("31", text) }
func (s style) bold(text string) string   { return s.sgr("1", text) }
func (s style) dim(text string) string    { return s.sgr("2", text) }

func (s style) sgr(code, text string) string {
	if !s {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func colourWanted() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// millis is d in milliseconds with two decimals, as every _ms field carries it.
func millis(d time.Duration) float64 {
	return math.Round(float64(d)/float64(10*time.Microsecond)) / 100
}
