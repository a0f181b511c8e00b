package server

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/pion/logging"
)

// pionLog hands pion's log lines to slog, all of them at debug level: most come once per packet
// of anybody who can reach the port, and may hold addresses.
type pionLog struct{ log *slog.Logger }

var _ logging.LoggerFactory = pionLog{}

func (l pionLog) NewLogger(string) logging.LeveledLogger { return l }

func (l pionLog) line(msg string) { l.printf("%s", msg) }

func (l pionLog) printf(format string, args ...any) {
	if l.log != nil && l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (l pionLog) Trace(msg string)          { l.line(msg) }
func (l pionLog) Tracef(f string, a ...any) { l.printf(f, a...) }
func (l pionLog) Debug(msg string)          { l.line(msg) }
func (l pionLog) Debugf(f string, a ...any) { l.printf(f, a...) }
func (l pionLog) Info(msg string)           { l.line(msg) }
func (l pionLog) Infof(f string, a ...any)  { l.printf(f, a...) }
func (l pionLog) Warn(msg string)           { l.line(msg) }
func (l pionLog) Warnf(f string, a ...any)  { l.printf(f, a...) }
func (l pionLog) Error(msg string)          { l.line(msg) }
func (l pionLog) Errorf(f string, a ...any) { l.printf(f, a...) }
