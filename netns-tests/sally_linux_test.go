package netnstests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file starts the command and reads its events. It holds all that these
// tests know of docs/CLI.md.

// Exit codes of the command.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitOffline = 4
	exitRefused = 5
)

// An event is one JSON object of the command's output.
type event struct {
	Event         string          `json:"event"`
	Millis        *float64        `json:"t_ms"`
	Peer          string          `json:"peer"`
	Node          string          `json:"node"`
	Relay         json.RawMessage `json:"relay"`
	Path          *path           `json:"path"`
	To            *path           `json:"to"`
	Why           string          `json:"why"`
	ElapsedMillis float64         `json:"elapsed_ms"`
	Sent          int             `json:"sent"`
	Received      int             `json:"received"`
	Direct        bool            `json:"direct"`
	DirectAfter   *float64        `json:"direct_after_ms"`
	line          string
}

// A path is how packets travel.
type path struct {
	Kind   string `json:"kind"`
	Remote string `json:"remote"`
	Via    string `json:"via"`
}

func (e event) kind() string {
	if e.Path == nil {
		return ""
	}
	return e.Path.Kind
}

// built is made at most once a run.
var built struct {
	once   sync.Once
	folder string
	path   string
	err    error
}

// sallyBinary returns the path of the built command, or of the one that
// SALLY_BINARY names, so that a release can be tested as it is shipped.
func sallyBinary(t testing.TB) string {
	t.Helper()
	if given := os.Getenv("SALLY_BINARY"); given != "" {
		return given
	}
	const source = "../cmd/sally"
	built.once.Do(func() {
		built.folder, built.err = os.MkdirTemp("", fmt.Sprintf("%s%d-", runPrefix, os.Getpid()))
		if built.err != nil {
			return
		}
		built.path = filepath.Join(built.folder, "sally")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", built.path, source)
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build %s: %w\n%s", source, err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// removeBinary ends what sallyBinary began.
func removeBinary() {
	if built.folder != "" {
		_ = os.RemoveAll(built.folder)
	}
}

// A command is one running sally.
type command struct {
	t       testing.TB
	title   string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	stdout  io.Reader // the user's data, where events go to stderr
	events  chan event
	readers sync.WaitGroup
	ended   chan struct{} // closed when the process has been waited for

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// longEnough bounds every wait for the command, however slow the machine.
const longEnough = 60 * time.Second

// sally starts the command at a place; its events are read from stdout.
func (p *place) sally(t testing.TB, args ...string) *command {
	t.Helper()
	c := p.prepare(t, args)
	c.launch(p, nil)
	return c
}

// pipe starts the command with the caller at its stdin and stdout and its events on stderr.
func (p *place) pipe(t testing.TB, args ...string) *command {
	t.Helper()
	c := p.prepare(t, args)
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	c.stdin, c.stdout = stdin, reader
	c.launch(p, writer)
	return c
}

func (p *place) prepare(t testing.TB, args []string) *command {
	t.Helper()
	home := t.TempDir()
	c := &command{
		t: t, title: fmt.Sprintf("sally %s (at %s)", strings.Join(args, " "), p.name),
		cmd:    exec.Command(sallyBinary(t), args...),
		events: make(chan event, 4096), ended: make(chan struct{}),
	}
	c.cmd.Dir = home
	c.cmd.Env = []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "PATH=" + os.Getenv("PATH"), "NO_COLOR=1"}
	if level := os.Getenv("SALLY_LOG_LEVEL"); level != "" {
		c.cmd.Env = append(c.cmd.Env, "SALLY_LOG_LEVEL="+level)
	}
	return c
}

// launch starts the process and the goroutines that read it; they end with it.
func (c *command) launch(at *place, data *io.PipeWriter) {
	c.t.Helper()
	stdout, err := c.cmd.StdoutPipe()
	if err == nil {
		var stderr io.Reader
		if stderr, err = c.cmd.StderrPipe(); err == nil {
			err = at.start(c.cmd)
			c.read(stdout, stderr, data, err == nil)
		}
	}
	if err != nil {
		c.t.Fatalf("starting %s: %v", c.title, err)
	}
	c.t.Cleanup(c.stop)
	go func() {
		defer close(c.ended)
		c.readers.Wait()
		_ = c.cmd.Wait() // the exit code is asked for by whoever needs it
	}()
}

// read hands stdout and stderr to their readers.
func (c *command) read(stdout, stderr io.Reader, data *io.PipeWriter, running bool) {
	if !running {
		return
	}
	if data == nil {
		c.readers.Go(func() { c.scan("stdout", stdout, true); close(c.events) })
		c.readers.Go(func() { c.scan("stderr", stderr, false) })
		return
	}
	c.readers.Go(func() { c.scan("stderr", stderr, true); close(c.events) })
	c.readers.Go(func() {
		_, err := io.Copy(data, stdout)
		data.CloseWithError(err)
	})
}

// scan keeps every line for the day of failure and passes on the events among them.
func (c *command) scan(name string, from io.Reader, withEvents bool) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		c.mu.Lock()
		fmt.Fprintf(&c.log, "  %s %s| %s\n", time.Now().Format("05.000"), name, line)
		c.mu.Unlock()
		if !withEvents || name == "stderr" && !strings.HasPrefix(line, `{"`) {
			continue
		}
		e := event{line: line}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			c.t.Errorf("%s: a line of %s is not an event: %v\n%s", c.title, name, err, line)
		} else if e.Event == "" || e.Millis == nil {
			c.t.Errorf("%s: every object has event and t_ms, this has not: %s", c.title, line)
		} else {
			c.events <- e
		}
	}
}

// stop asks the process to end, then makes it, and waits.
func (c *command) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	if c.stdout != nil {
		_ = c.stdout.(*io.PipeReader).Close()
	}
	late := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	for {
		select {
		case _, ok := <-c.events: // nobody else reads them any more
			if !ok {
				<-c.ended
				return
			}
		case <-c.ended:
			return
		}
	}
}

// kill ends the process at once, as a power cut would, and waits for that.
func (c *command) kill() {
	_ = c.cmd.Process.Kill()
	c.stop()
}

// dump makes a command that hangs write its stacks into the transcript and die.
func (c *command) dump() {
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-c.ended:
	case <-time.After(5 * time.Second):
	}
}

// fatalf ends the test and shows all that the command wrote.
func (c *command) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), c.transcript())
}

func (c *command) transcript() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.title + ":\n" + c.log.String()
}

// want waits for the next event of that name and skips all others.
func (c *command) want(name string) event {
	c.t.Helper()
	return c.wantWhere(name, func(event) bool { return true })
}

// wantWhere waits for the next event of that name that fits.
func (c *command) wantWhere(name string, fits func(event) bool) event {
	c.t.Helper()
	deadline := time.NewTimer(longEnough)
	defer deadline.Stop()
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				<-c.ended
				c.fatalf("%s ended without the awaited %q event", c.title, name)
			}
			if e.Event == name && fits(e) {
				return e
			}
		case <-deadline.C:
			c.dump()
			c.fatalf("no %q event of %s in %v", name, c.title, longEnough)
		}
	}
}

// A result is what a command that ended by itself has said.
type result struct {
	*command
	code   int
	events []event
}

// result waits for the command's own end.
func (c *command) result() result {
	c.t.Helper()
	r := result{command: c}
	deadline := time.NewTimer(longEnough)
	defer deadline.Stop()
	for {
		select {
		case e, ok := <-c.events:
			if ok {
				r.events = append(r.events, e)
				continue
			}
			<-c.ended
			r.code = c.cmd.ProcessState.ExitCode()
			return r
		case <-deadline.C:
			c.dump()
			c.fatalf("%s did not end in %v", c.title, longEnough)
		}
	}
}

// all returns the events of one name.
func (r result) all(name string) []event {
	var found []event
	for _, e := range r.events {
		if e.Event == name {
			found = append(found, e)
		}
	}
	return found
}

// done returns the last event of a ping that got that far.
func (r result) done() event {
	r.t.Helper()
	found := r.all("done")
	if len(found) != 1 {
		r.fatalf("%d done events, want one", len(found))
	}
	return found[0]
}

// complaints returns what the command wrote to stderr.
func (r result) complaints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for line := range strings.Lines(r.log.String()) {
		if _, text, ok := strings.Cut(line, "stderr| "); ok {
			lines = append(lines, strings.TrimSpace(text))
		}
	}
	return lines
}
