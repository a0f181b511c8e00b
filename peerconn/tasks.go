package peerconn

import "sync"

// tasks are the goroutines that end with the host. What is to be started after
// the wait for their end has begun is not started: it would end at once, and a
// WaitGroup must not grow from zero while it is waited for.
type tasks struct {
	mu     sync.Mutex // guards ending, and running against growing afterwards
	ending bool

	running sync.WaitGroup
}

// Go runs f in a goroutine of its own.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ending {
		t.running.Go(f)
	}
}

// Wait waits for all to end.
func (t *tasks) Wait() {
	t.mu.Lock()
	t.ending = true
	t.mu.Unlock()
	t.running.Wait()
}
