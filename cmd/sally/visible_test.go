package main

import (
	"bytes"
	"testing"
)

// TestVisible: words that a stranger chose command no terminal.
func TestVisible(t *testing.T) {
	var out, messages bytes.Buffer
	o := newOutput(&out, &messages)
	const hostile = "\x1b[2J\x1b]0;title\a\r\u009b31m\u202e"
	o.note("sally: %s", "relay "+hostile)
	o.emit(closedEvent{Why: hostile})
	o.emit(pathEvent{Why: hostile})
	for _, text := range []string{out.String(), messages.String()} {
		if bytes.ContainsAny([]byte(text), "\x1b\a\r\u009b\u202e") || text == "" {
			t.Errorf("a terminal would obey %q", text)
		}
	}
}
