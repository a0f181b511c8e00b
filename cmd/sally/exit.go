package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/sallyport-net/sallyport"
)

// The exit codes, a promise to scripts.
const (
	exitDone    = 0
	exitFailed  = 1 // it could not be done; the last lines say what was tried and why each failed
	exitUsage   = 2 // wrong usage or configuration; one line says what and how to fix it
	exitNotAs   = 3 // connected, but not as asked
	exitOffline = 4 // the peer is offline
	exitRefused = 5 // the peer refused
)

var errInterrupted = errors.New("interrupted")

// failure is an error that knows its exit code.
type failure struct {
	code  int
	tried []string // one line for everything that was tried
	err   error
	fix   string // what the user can do, "" where nothing is known
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usagef says in one line what is wrong and how to fix it.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode sorts an error into the contract's codes.
func exitCode(err error) int {
	var f *failure
	var key *sallyport.KeyFileError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &f):
		return f.code
	case errors.As(err, &key) && !errors.Is(err, syscall.ENOSPC):
		return exitUsage
	}
	return exitFailed
}

// report prints a failure by rule 5 and returns its exit code.
func (o *output) report(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil {
		err = errInterrupted // whatever broke because of it
	}
	code := exitCode(err)
	var f *failure
	errors.As(err, &f)
	if o.json {
		o.emit(newErrorEvent(code, err, f))
	}
	if f != nil {
		for _, line := range f.tried {
			o.note("  %s", line)
		}
	}
	o.note("sally: %v", err)
	if f != nil && f.fix != "" {
		o.note("fix: %s", f.fix)
	}
	return code
}

type errorEvent struct {
	Code    int      `json:"code"`
	Message string   `json:"message"`
	Tried   []string `json:"tried,omitempty"`
	Fix     string   `json:"fix,omitempty"`
}

func newErrorEvent(code int, err error, f *failure) errorEvent {
	e := errorEvent{Code: code, Message: err.Error()}
	if f != nil {
		e.Tried, e.Fix = f.tried, f.fix
	}
	return e
}

func (errorEvent) name() string         { return "error" }
func (e errorEvent) human(style) string { return "" } // people read the messages instead
