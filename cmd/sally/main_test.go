package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"sally": main})
}

// leakChecked fails the tests when a goroutine is left behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left behind:", err)
		return 1
	}
	return code
}

// TestScripts runs testdata/*.txtar against the built command. Beside testscript's own commands there are
//
//	code N sally ARG…              runs to the end and compares the exit code
//	start NAME EVENT [<FILE] ARG…  starts "sally ARG… --json" and waits for the event
//	await NAME EVENT               waits for a further event of it
//	end NAME N                     waits for its end and compares the exit code
//	interrupt NAME N               interrupts it first
//	get URL                        puts an HTTP answer's status and body into stdout
//	envfile NAME FILE              puts the first line of a file into a variable
//
// The file big has 4.8 MB. start and await export an event's fields as variables, "node" of NAME as $NAME_node. What NAME printed
// is in the files NAME.out and NAME.err when it has ended. Nothing waits by sleeping.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "data"))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // under -race every process would linger for a second
			e.Values[runningKey{}] = map[string]*background{}
			return os.WriteFile(filepath.Join(e.WorkDir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 300_000), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": codeCommand, "start": startCommand, "await": awaitCommand,
			"end": endCommand, "interrupt": interruptCommand, "get": getCommand, "envfile": envfileCommand,
		},
	})
}
