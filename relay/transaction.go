package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

// Retransmission (RFC 8489 §6.2.1): intervals of RTO, 2 RTO, 4 RTO, …; Rc = 7 requests in all;
// after the last, Rm × RTO of silence end it. The RFC's 500 ms are halved, since an answer after
// 250 ms is rare and a lost packet costs a whole interval at the start of a link.
const (
	initialRTO  = 250 * time.Millisecond
	maxRequests = 7
	finalWait   = 16 * initialRTO
)

// transactions holds the requests that wait for their answer. mu guards pending.
type transactions struct {
	send    func([]byte) error
	mu      sync.Mutex
	pending map[[stun.TransactionIDSize]byte]*transaction
}

// transaction is one request on its way. It ends with wait, which must be called.
type transaction struct {
	all    *transactions
	raw    []byte
	id     [stun.TransactionIDSize]byte
	key    stun.MessageIntegrity // nil: sent without authentication
	answer chan *stun.Message    // holds one
}

// start sends the request m once and returns; wait does the rest.
func (t *transactions) start(m *stun.Message, key stun.MessageIntegrity) (*transaction, error) {
	x := &transaction{all: t, raw: m.Raw, id: m.TransactionID, key: key, answer: make(chan *stun.Message, 1)}
	t.mu.Lock()
	t.pending[x.id] = x
	t.mu.Unlock()
	if err := t.send(x.raw); err != nil {
		x.end()
		return nil, fmt.Errorf("sending to the relay: %w", err)
	}
	return x, nil
}

func (x *transaction) end() {
	x.all.mu.Lock()
	delete(x.all.pending, x.id)
	x.all.mu.Unlock()
}

// wait retransmits until the answer, ctx's end or the last interval ([ErrTimeout]).
func (x *transaction) wait(ctx context.Context) (*stun.Message, error) {
	defer x.end()
	interval := initialRTO
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for sent := 1; ; sent++ {
		select {
		case m := <-x.answer:
			return m, nil
		case <-ctx.Done():
			return x.cancelled(ctx)
		case <-timer.C:
		}
		if sent == maxRequests {
			return nil, ErrTimeout
		}
		// A failed retransmission is like a lost one: the socket may recover.
		_ = x.all.send(x.raw)
		if interval *= 2; sent == maxRequests-1 {
			interval = finalWait
		}
		timer.Reset(interval)
	}
}

// cancelled is wait's end by ctx; a ready answer beats it.
func (x *transaction) cancelled(ctx context.Context) (*stun.Message, error) {
	select {
	case m := <-x.answer:
		return m, nil
	default:
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w: %w", ErrTimeout, ctx.Err())
	}
	return nil, ctx.Err()
}

// deliver takes a response; false: it answers nothing of ours. A response without the right
// MESSAGE-INTEGRITY to an authenticated request is "ignored, as if it had never been received"
// (RFC 8489 §9.2.5), except 401 and 438, which carry none.
func (t *transactions) deliver(b []byte) bool {
	var id [stun.TransactionIDSize]byte
	copy(id[:], b[8:20])
	t.mu.Lock()
	x := t.pending[id]
	t.mu.Unlock()
	if x == nil {
		return false
	}
	m, err := decode(b)
	if err != nil || !x.trusts(m) {
		return true
	}
	select {
	case x.answer <- m:
	default: // a repeated answer
	}
	return true
}

func (x *transaction) trusts(m *stun.Message) bool {
	if x.key == nil {
		return true
	}
	if m.Contains(stun.AttrMessageIntegrity) {
		return x.key.Check(m) == nil
	}
	var code stun.ErrorCodeAttribute
	return m.Type.Class == stun.ClassErrorResponse && code.GetFrom(m) == nil &&
		(code.Code == stun.CodeUnauthorized || code.Code == stun.CodeStaleNonce)
}
