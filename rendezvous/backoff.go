package rendezvous

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	backoffMin  = 100 * time.Millisecond
	backoffMax  = 5 * time.Second
	takenMin    = 15 * time.Second
	takenMax    = 5 * time.Minute
	limitedWait = 10 * time.Second
	settled     = 10 * time.Second // a session that lasted this long was a good one
)

// backoff says how long to wait before the next attempt.
type backoff struct{ last time.Duration }

// next is given why the last session ended, whether it was registered and how
// long it lasted. A node that restarted is tried at once; a key that somebody
// else uses is left to him for longer and longer.
func (b *backoff) next(err error, registered bool, lasted time.Duration) time.Duration {
	switch {
	case errors.Is(err, ErrTakenOver):
		return b.grow(takenMin, takenMax)
	case errors.Is(err, ErrLimited):
		return b.grow(limitedWait, takenMax)
	case errors.Is(err, errRestarted) && lasted >= time.Second:
		b.last = 0
		return 0
	case registered && lasted >= settled:
		b.last = 0
	}
	return b.grow(backoffMin, backoffMax)
}

// grow doubles, within bounds, and returns half of it to the whole of it.
func (b *backoff) grow(least, most time.Duration) time.Duration {
	b.last = min(max(2*b.last, least), most)
	return b.last/2 + rand.N(b.last/2)
}

// sleep reports false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
