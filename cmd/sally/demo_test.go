package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// TestDemoPairs runs the demo for pairs of every kind of home, all at once: it must link
// every one of them.
func TestDemoPairs(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, left := range natlab.SiteKinds() {
		for _, right := range []natlab.SiteKind{natlab.SitePortRestricted, natlab.SiteSymmetric} {
			if left == natlab.SiteUDPBlocked {
				continue // nothing to link: see testdata/demo.txtar
			}
			all.Go(func() {
				var out, errOut bytes.Buffer
				code := run(t.Context(), []string{"sally", "demo", "--left", string(left), "--right", string(right), "--json"},
					strings.NewReader(""), &out, &errOut)
				done := lastEvent(t, out.Bytes())
				if code != exitDone || done["event"] != "done" || done["received"] != float64(demoPings) {
					t.Errorf("%s x %s: exit code %d, said %s%s", left, right, code, &out, &errOut)
				}
			})
		}
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
	var out, errOut bytes.Buffer
	r := &runner{out: newOutput(&out, &errOut)}
	r.out.json = true
	log, err := newLogger(io.Discard, "off")
	if err != nil {
		t.Fatal(err)
	}
	inv := &invocation{output: r.out, log: log}
	d := &demo{invocation: inv}
	if d.lab, err = newDemoLab(inv); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.left, err = d.lab.peer(natlab.SiteSymmetric, "left"); err != nil {
		t.Fatal(err)
	}
	if d.right, err = d.lab.peer(natlab.SiteSymmetric, "right"); err != nil {
		t.Fatal(err)
	}
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
	code := r.out.report(t.Context(), p.run(t.Context()))
	if code != exitNotAs {
		t.Errorf("exit code %d, want %d; said %s%s", code, exitNotAs, &out, &errOut)
	}
	for _, want := range []string{`"event":"done"`, `"direct":false,"direct_after_ms":null`, `"via":"` + demoNodeName + `"`, `"event":"error"`, `"code":3`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, &out)
		}
	}
	if !strings.Contains(errOut.String(), "connected, but not direct within 500ms: relay through "+demoNodeName) {
		t.Errorf("said %s", &errOut)
	}
}
