package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// transcript is an invocation whose output is kept.
type transcript struct{ out, err bytes.Buffer }

func (tr *transcript) invocation() *invocation {
	o := newOutput(&tr.out, &tr.err)
	o.json = true
	return &invocation{output: o, log: slog.New(slog.DiscardHandler)}
}

// TestDemoPairs runs the demo for every kind of home, all at once: it must link every one.
func TestDemoPairs(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, left := range natlab.SiteKinds() {
		if left == natlab.SiteUDPBlocked {
			continue // nothing to link: see testdata/demo.txtar
		}
		all.Go(func() {
			var tr transcript
			d, err := newDemo(tr.invocation(), left, natlab.SitePortRestricted)
			if err != nil {
				t.Error(err)
				return
			}
			defer d.close()
			if err := d.run(t.Context()); err != nil {
				t.Errorf("%s: %v; said %s", left, err, &tr.out)
			}
			if done := lastEvent(t, tr.out.Bytes()); done["event"] != "done" || done["received"] != float64(demoPings) {
				t.Errorf("%s: ended with %v", left, done)
			}
		})
	}
}

func lastEvent(t *testing.T, out []byte) (e map[string]any) {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &e); err != nil {
		t.Errorf("last line %q: %v", lines[len(lines)-1], err)
	}
	return e
}

// TestUntilDirectFails: two symmetric NATs are linked by the relay, which is not what was asked for.
func TestUntilDirectFails(t *testing.T) {
	var tr transcript
	inv := tr.invocation()
	d, err := newDemo(inv, natlab.SiteSymmetric, natlab.SiteSymmetric)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, p := range []*demoPeer{d.left, d.right} {
		if err := p.host.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	go d.answer(t.Context()) // ends with the right host
	link, err := d.left.host.Dial(t.Context(), d.right.ticket())
	if err != nil {
		t.Fatal(err)
	}
	if err := link.WaitPath(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &pinger{
		invocation: inv, interval: 100 * time.Millisecond, untilDirect: true, timeout: 500 * time.Millisecond,
		moved: make(chan struct{}, 1), sentAt: map[uint64]time.Time{}, call: &call{host: d.left.host, link: link, asked: time.Now()},
	}
	code := inv.report(t.Context(), p.run(t.Context()))
	if code != exitNotAs {
		t.Errorf("exit code %d, want %d; said %s%s", code, exitNotAs, &tr.out, &tr.err)
	}
	for _, want := range []string{`"event":"done"`, `"direct":false,"direct_after_ms":null`, `"via":"` + demoNodeName + `"`, `"event":"error"`, `"code":3`} {
		if !strings.Contains(tr.out.String(), want) {
			t.Errorf("no %s in %s", want, &tr.out)
		}
	}
	if !strings.Contains(tr.err.String(), "connected, but not direct within 500ms: relay through "+demoNodeName) {
		t.Errorf("said %s", &tr.err)
	}
}
