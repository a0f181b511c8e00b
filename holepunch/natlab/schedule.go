package natlab

import "time"

// direction on a link, seen from the network towards the node.
type direction uint8

const (
	up direction = iota
	down
)

// event is a packet that reaches the end of a link.
type event struct {
	at   time.Duration
	seq  uint64
	link *Link
	dir  direction
	pkt  Packet
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.seq < o.seq
}

// eventQueue is a binary heap, earliest first; equal times in the order of push.
type eventQueue []event

func (q *eventQueue) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !h[i].before(&h[parent]) {
			break
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
	*q = h
}

func (q *eventQueue) pop() event {
	h := *q
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h[last] = event{}
	h = h[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && h[child+1].before(&h[child]) {
			child++
		}
		if !h[child].before(&h[i]) {
			break
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
	*q = h
	return first
}

// schedule puts a packet on a link. Caller holds in.mu and pumps afterwards.
func (in *Internet) schedule(at time.Duration, l *Link, d direction, p Packet) {
	in.seq++
	in.queue.push(event{at, in.seq, l, d, p})
}

// pump handles every event that is due and arms the timer for the next. Caller holds in.mu.
func (in *Internet) pump(now time.Duration) {
	for len(in.queue) > 0 && in.queue[0].at <= now {
		e := in.queue.pop()
		e.link.arrive(e.at, e.dir, e.pkt)
	}
	if len(in.queue) == 0 || in.closed {
		return
	}
	next := in.queue[0].at
	if in.isArmed && in.armed <= next {
		return
	}
	in.armed, in.isArmed = next, true
	if in.timer == nil {
		in.timer = time.AfterFunc(next-now, in.tick)
	} else {
		in.timer.Reset(next - now)
	}
}

// tick is the timer's function.
func (in *Internet) tick() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.isArmed = false
	if !in.closed {
		in.pump(in.elapsed())
	}
}
