package server

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

// A callee that has not answered after doubt is asked for a sign of life, and
// counts as gone where its whole connection stays silent for vanished.
const (
	doubt    = time.Second
	vanished = 2 * time.Second
)

// call is two streams and what may still pass between them.
type call struct {
	server         *Server
	caller, callee *session
	a, b           *quic.Stream // caller's, callee's

	mu       sync.Mutex // guards what follows
	left     int        // bytes of the budget
	answered bool
	over     bool
}

// inbox is a callee's calls that have no answer yet, oldest first.
type inbox struct {
	mu    sync.Mutex
	calls []*call
}

// push adds c and returns the oldest where there are more than limit.
func (i *inbox) push(c *call, limit int) (oldest *call) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls = append(i.calls, c)
	if limit < 0 || len(i.calls) <= limit {
		return nil
	}
	oldest = i.calls[0]
	i.calls = i.calls[1:]
	return oldest
}

func (i *inbox) remove(c *call) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, other := range i.calls {
		if other == c {
			i.calls = append(i.calls[:n], i.calls[n+1:]...)
			return
		}
	}
}

// placeCall serves a stream that began with a Call frame until the call ends.
func (s *session) placeCall(stream *quic.Stream, reader *wire.Reader, payload []byte) {
	request, err := wire.ParseCall(payload)
	if err != nil {
		s.broken("malformed call")
		return
	}
	c, end := s.connect(stream, request)
	if c == nil {
		s.answer(stream, end.Append(nil))
		return
	}
	defer s.placed.Add(-1)
	deadline := time.Now().Add(rendezvous.CallLifetime)
	c.a.SetReadDeadline(deadline)
	c.b.SetReadDeadline(deadline)
	defer c.watch()()
	var back sync.WaitGroup
	back.Go(func() { c.pump(c.callee, wire.NewReader(c.b), c.a) })
	c.pump(c.caller, reader, c.b)
	back.Wait()
	c.callee.inbox.remove(c)
}

// connect checks the limits, opens the callee's stream and passes the offer on.
func (s *session) connect(stream *quic.Stream, request wire.Call) (*call, wire.End) {
	if what := s.overLimit(request.Peer, time.Now()); what != "" {
		s.server.counters.limited.Add(1)
		s.strike()
		return nil, wire.End{Code: wire.EndLimited, Reason: what}
	}
	callee := s.server.registry.find(request.Peer)
	if callee == nil {
		return nil, wire.End{Code: wire.EndOffline}
	}
	if n := s.placed.Add(1); s.server.limits.callsAtOnce >= 0 && int(n) > s.server.limits.callsAtOnce {
		s.placed.Add(-1)
		return nil, wire.End{Code: wire.EndLimited, Reason: "too many calls at once"}
	}
	out, err := callee.conn.OpenStream()
	if err == nil {
		err = out.TryWriteAll(wire.Call{Peer: s.id, Offer: request.Offer}.Append(nil))
	}
	if err != nil {
		s.placed.Add(-1)
		return nil, refusal(err)
	}
	c := &call{
		server: s.server, caller: s, callee: callee, a: stream, b: out,
		left: wire.CallBudget - len(request.Offer),
	}
	if oldest := callee.inbox.push(c, s.server.limits.inbox); oldest != nil {
		oldest.finish(wire.End{Code: wire.EndLimited, Reason: "callee has too many calls"})
	}
	s.server.counters.calls.Add(1)
	return c, wire.End{}
}

func refusal(err error) wire.End {
	var limit quic.StreamLimitReachedError
	if errors.As(err, &limit) || errors.Is(err, quic.ErrWouldBlock) {
		return wire.End{Code: wire.EndLimited, Reason: "callee has too many calls"}
	}
	return wire.End{Code: wire.EndOffline}
}

// overLimit names the limit that a call breaks.
func (s *session) overLimit(callee sallyport.PeerID, now time.Time) string {
	l := s.server.limits
	pair := [2]sallyport.PeerID{s.id, callee}
	switch {
	case !l.sender.allow(s.key, now, 1):
		return "too many calls from this peer"
	case !l.pair.allow(l.key(pair), now, 1):
		return "too many calls to this peer"
	case !l.prefix.allow(l.key(prefix(s.observed())), now, 1):
		return "too many calls from this network"
	case !l.callee.allow(l.key(callee), now, 1):
		return "callee has too many calls"
	}
	return ""
}

// watch ends the call as offline where the callee's connection turns out dead:
// while no answer comes, the callee is sent something that its QUIC acknowledges
// at once. The returned function ends the watch.
func (c *call) watch() (stop func()) {
	var second *time.Timer
	first := time.AfterFunc(doubt, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.answered || c.over {
			return
		}
		before := c.callee.conn.ConnectionStats().PacketsReceived
		c.callee.nudge()
		second = time.AfterFunc(vanished, func() {
			if c.callee.conn.ConnectionStats().PacketsReceived == before {
				c.finish(wire.End{Code: wire.EndOffline})
				c.callee.conn.CloseWithError(wire.CodeGone, "no answer")
			}
		})
	})
	return func() {
		first.Stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		if second != nil {
			second.Stop()
		}
	}
}

// pump passes one side's messages to the other until the call is over.
func (c *call) pump(from *session, reader *wire.Reader, to *quic.Stream) {
	for {
		kind, payload, err := reader.Next()
		if err != nil {
			c.finish(c.sideEnd(from, err))
			return
		}
		if end, over := c.pass(from, kind, payload, to); over {
			c.finish(end)
			return
		}
	}
}

// sideEnd says what an error of one side's stream means to the call. The zero
// End is a call that was closed as it should be.
func (c *call) sideEnd(from *session, err error) wire.End {
	_, cancelled := errors.AsType[*quic.StreamError](err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return wire.End{Code: wire.EndExpired}
	case cancelled, err == io.EOF, from == c.caller:
		return wire.End{}
	case errors.Is(err, quic.ErrWouldBlock):
		return wire.End{Code: wire.EndLimited, Reason: "callee does not read"}
	}
	return wire.End{Code: wire.EndOffline} // the callee's connection is lost
}

// pass passes one frame on, or says how the call ends.
func (c *call) pass(from *session, kind wire.Type, payload []byte, to *quic.Stream) (wire.End, bool) {
	if from == c.callee {
		c.answer()
	}
	if kind == wire.TypeEnd {
		end, err := wire.ParseEnd(payload)
		if err != nil || from != c.callee || end.Code != wire.EndRefused {
			from.broken("malformed end")
			return wire.End{}, true
		}
		c.server.counters.refused.Add(1)
		return end, true
	}
	msg, err := wire.ParseMessage(payload)
	if kind != wire.TypeMessage || err != nil {
		from.broken("malformed message")
		return wire.End{}, true
	}
	if !c.server.limits.messages.allow(from.key, time.Now(), 1) {
		return wire.End{Code: wire.EndLimited, Reason: "too many messages"}, true
	}
	if !c.spend(len(msg)) {
		return wire.End{Code: wire.EndBudget}, true
	}
	if err := c.forward(to, msg); err != nil {
		if _, stopped := errors.AsType[*quic.StreamError](err); stopped {
			return wire.End{}, false // it reads no more: what it said last, a refusal perhaps, decides
		}
		return c.sideEnd(c.other(from), err), true
	}
	return wire.End{}, false
}

func (c *call) other(s *session) *session {
	if s == c.caller {
		return c.callee
	}
	return c.caller
}

// forward passes a message on. After the end of the call it drops it.
func (c *call) forward(to *quic.Stream, msg wire.Message) error {
	c.mu.Lock() // finish writes to the same stream
	defer c.mu.Unlock()
	if c.over {
		return nil
	}
	return to.TryWriteAll(msg.Append(nil))
}

func (c *call) answer() {
	c.mu.Lock()
	first := !c.answered
	c.answered = true
	c.mu.Unlock()
	if first {
		c.callee.inbox.remove(c)
	}
}

func (c *call) spend(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.left {
		return false
	}
	c.left -= n
	return true
}

// finish ends the call once: both sides get what was sent before, then the
// reason if there is one.
func (c *call) finish(end wire.End) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	for _, stream := range []*quic.Stream{c.a, c.b} {
		if end.Code != 0 {
			stream.TryWriteAll(end.Append(nil)) // best effort: the other side may be gone
		}
		stream.Close()
		stream.CancelRead(wire.CodeClosed)
	}
}
