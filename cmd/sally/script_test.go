package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptTimeout is far beyond what any step needs: it only turns a hang into a failure.
const scriptTimeout = 2 * time.Minute

func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND ARG…")
	}
	compareCode(ts, ts.Exec(args[1], args[2:]...), args[0])
}

func compareCode(ts *testscript.TestScript, err error, want string) {
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running: %v", err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

type runningKey struct{}

// background is a command that a script started.
type background struct {
	name   string
	cmd    *exec.Cmd
	events chan map[string]any
	ended  chan error
	tail   sync.WaitGroup
}

func running(ts *testscript.TestScript, name string) *background {
	b := ts.Value(runningKey{}).(map[string]*background)[name]
	if b == nil {
		ts.Fatalf("%s was not started", name)
	}
	return b
}

func startCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: start NAME EVENT [<FILE] ARG…")
	}
	name, event, args := args[0], args[1], args[2:]
	b := &background{name: name, events: make(chan map[string]any, 1000), ended: make(chan error, 1)}
	var stdin io.WriteCloser
	var input io.Reader
	if file, ok := strings.CutPrefix(args[0], "<"); ok {
		f, err := os.Open(ts.MkAbs(file))
		ts.Check(err)
		defer f.Close()
		input, args = f, args[1:]
	}
	b.cmd = exec.Command("sally", append(args, "--json")...)
	b.cmd.Dir = ts.MkAbs(".")
	b.cmd.Stdin = input
	for _, key := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "GORACE"} {
		b.cmd.Env = append(b.cmd.Env, key+"="+ts.Getenv(key))
	}
	if input == nil { // an input that never ends
		var err error
		stdin, err = b.cmd.StdinPipe()
		ts.Check(err)
	}
	b.start(ts, stdin)
	ts.Value(runningKey{}).(map[string]*background)[name] = b
	b.await(ts, event)
}

func (b *background) start(ts *testscript.TestScript, stdin io.Closer) {
	stdout, err := b.cmd.StdoutPipe()
	ts.Check(err)
	stderr, err := b.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(b.cmd.Start())
	b.follow(ts, stdout, b.name+".out")
	b.follow(ts, stderr, b.name+".err")
	go func() { // ends with the process
		b.tail.Wait()
		close(b.events)
		err := b.cmd.Wait()
		if stdin != nil {
			stdin.Close()
		}
		b.ended <- err
	}()
	ts.Defer(func() {
		b.cmd.Process.Kill()
		b.tail.Wait()
	})
}

// follow copies what the command prints into a file and picks out the events.
func (b *background) follow(ts *testscript.TestScript, r io.Reader, file string) {
	out, err := os.Create(ts.MkAbs(file))
	ts.Check(err)
	b.tail.Go(func() {
		defer out.Close()
		lines := bufio.NewReader(r)
		for {
			line, err := lines.ReadBytes('\n')
			out.Write(line)
			var e map[string]any
			if json.Unmarshal(line, &e) == nil && e["event"] != nil {
				b.events <- e
			}
			if err != nil {
				return
			}
		}
	})
}

func awaitCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await NAME EVENT")
	}
	running(ts, args[0]).await(ts, args[1])
}

// await waits for an event and exports its fields.
func (b *background) await(ts *testscript.TestScript, event string) {
	timeout := time.NewTimer(scriptTimeout)
	defer timeout.Stop()
	for {
		select {
		case e, ok := <-b.events:
			if !ok {
				ts.Fatalf("%s ended without %q; it said:\n%s%s", b.name, event, ts.ReadFile(b.name+".out"), ts.ReadFile(b.name+".err"))
			}
			if e["event"] == event {
				b.export(ts, e)
				return
			}
		case <-timeout.C:
			ts.Fatalf("%s: no %q in %v; it said:\n%s%s", b.name, event, scriptTimeout, ts.ReadFile(b.name+".out"), ts.ReadFile(b.name+".err"))
		}
	}
}

func (b *background) export(ts *testscript.TestScript, e map[string]any) {
	for key, value := range e {
		text := fmt.Sprint(value)
		if list, ok := value.([]any); ok && len(list) > 0 {
			text = fmt.Sprint(list[0])
		}
		ts.Setenv(b.name+"_"+key, text)
	}
}

func interruptCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: interrupt NAME N")
	}
	ts.Check(running(ts, args[0]).cmd.Process.Signal(os.Interrupt))
	endCommand(ts, neg, args)
}

func endCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: end NAME N")
	}
	b := running(ts, args[0])
	select {
	case err := <-b.ended:
		compareCode(ts, err, args[1])
	case <-time.After(scriptTimeout):
		ts.Fatalf("%s does not end; it said:\n%s%s", b.name, ts.ReadFile(b.name+".out"), ts.ReadFile(b.name+".err"))
	}
}

func getCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: get URL")
	}
	client := http.Client{Timeout: scriptTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	fmt.Fprintln(ts.Stdout(), resp.Status)
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
}

func envfileCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: envfile NAME FILE")
	}
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], line)
}
