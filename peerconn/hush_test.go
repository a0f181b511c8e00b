package peerconn

import (
	"testing"
	"time"
)

// A conversation that ends raises one question; keepalives raise none.
func TestHush(t *testing.T) {
	var h hush
	now := time.Unix(1000, 0)
	hear := func(n int) (woken bool) {
		for range n {
			woken = h.heard() || woken
		}
		return woken
	}
	want := func(why string, ended bool, next time.Duration) {
		t.Helper()
		if e, n := h.look(now); e != ended || n != next {
			t.Errorf("%s: %v, look again in %v; want %v, %v", why, e, n, ended, next)
		}
	}
	want("nothing was ever heard", false, idleStep)
	if !hear(10) {
		t.Error("the goroutine is not woken")
	}
	want("talking", false, hushTick)
	if hear(10) {
		t.Error("the goroutine is woken although it looks in by itself")
	}
	now = now.Add(hushTick)
	want("still talking", false, hushTick)
	now = now.Add(hushTick)
	want("quiet for a second", false, hushAfter-hushTick)
	now = now.Add(hushAfter - hushTick)
	want("quiet", true, idleStep)
	now = now.Add(time.Hour)
	want("asked already", false, idleStep)
	if !hear(hushTalk - 1) {
		t.Error("the goroutine is not woken for a keepalive")
	}
	want("a keepalive", false, hushTick)
	now = now.Add(hushAfter)
	want("quiet after a keepalive", false, idleStep)
}
