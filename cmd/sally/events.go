package main

import (
	"fmt"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

// path is one way of a link, as every event carries it.
type path struct {
	Kind      string  `json:"kind"` // lan, direct or relay
	Remote    string  `json:"remote"`
	Via       string  `json:"via,omitempty"` // the relay's name
	Transport string  `json:"transport"`
	RTTMillis float64 `json:"rtt_ms"`
}

// newPath puts a path into the contract's words. A link whose packets still ride
// the node's signalling is relayed by that node.
func newPath(p peerconn.Path) path {
	out := path{Kind: p.Kind.String(), Via: p.Via, Transport: p.Transport, RTTMillis: millis(p.RTT)}
	if p.Remote.IsValid() {
		out.Remote = p.Remote.String()
	}
	if p.Kind == peerconn.PathNode {
		out.Kind = "relay"
		if out.Via == "" {
			out.Via = "node " + out.Remote
		}
	}
	return out
}

func (p path) direct() bool { return p.Kind == "lan" || p.Kind == "direct" }

func (p path) String() string {
	switch {
	case p.Kind == "relay" && p.Via != "":
		return "relay through " + p.Via
	case p.Remote == "":
		return p.Kind
	}
	return p.Kind + " " + p.Remote
}

func (p path) paint(s style) string {
	if p.direct() {
		return s.green(p.String())
	}
	return s.yellow(p.String())
}

// readyEvent says that this side is registered at its node.
type readyEvent struct {
	Peer   sallyport.PeerID `json:"peer"`
	Ticket string           `json:"ticket,omitempty"`
}

func (readyEvent) name() string { return "ready" }
func (e readyEvent) human(s style) string {
	if e.Ticket == "" {
		return ""
	}
	return fmt.Sprintf("listening as %s\nticket %s", e.Peer, s.bold(e.Ticket))
}

type acceptedEvent struct {
	Peer sallyport.PeerID `json:"peer"`
	Path path             `json:"path"`
}

func (acceptedEvent) name() string { return "accepted" }
func (e acceptedEvent) human(s style) string {
	return fmt.Sprintf("accepted %s: %s", e.Peer.Short(), e.Path.paint(s))
}

type connectedEvent struct {
	Peer          sallyport.PeerID `json:"peer"`
	Path          path             `json:"path"`
	ElapsedMillis float64          `json:"elapsed_ms"`
}

func (connectedEvent) name() string { return "connected" }
func (e connectedEvent) human(s style) string {
	return fmt.Sprintf("connected to %s in %v ms: %s", e.Peer.Short(), e.ElapsedMillis, e.Path.paint(s))
}

type pathEvent struct {
	Peer sallyport.PeerID `json:"peer"`
	From *path            `json:"from"` // null: there was none
	To   *path            `json:"to"`   // null: none is left, and one is looked for
	Why  string           `json:"why"`
}

// newPathEvent translates a change of a link's path.
func newPathEvent(peer sallyport.PeerID, e peerconn.Event) pathEvent {
	out := pathEvent{Peer: peer, Why: e.Why}
	if e.From.Kind != peerconn.PathNone {
		from := newPath(e.From)
		out.From = &from
	}
	if e.To.Kind != peerconn.PathNone {
		to := newPath(e.To)
		out.To = &to
	}
	return out
}

func (pathEvent) name() string { return "path" }
func (e pathEvent) human(s style) string {
	from, to := "nothing", s.red("nothing")
	if e.From != nil {
		from = e.From.String()
	}
	if e.To != nil {
		to = e.To.paint(s)
	}
	line := fmt.Sprintf("path of %s: %s → %s", e.Peer.Short(), from, to)
	if e.Why != "" {
		line += s.dim(" (" + visible(e.Why) + ")")
	}
	return line
}

type closedEvent struct {
	Peer sallyport.PeerID `json:"peer"`
	Why  string           `json:"why"`
}

func (closedEvent) name() string { return "closed" }
func (e closedEvent) human(_ style) string {
	return fmt.Sprintf("closed %s: %s", e.Peer.Short(), visible(e.Why))
}

type pongEvent struct {
	Seq       int     `json:"seq"`
	RTTMillis float64 `json:"rtt_ms"`
	Path      path    `json:"path"`
}

func (pongEvent) name() string { return "pong" }
func (e pongEvent) human(s style) string {
	return fmt.Sprintf("pong %d: %v ms, %s", e.Seq, e.RTTMillis, e.Path.paint(s))
}

type pingDoneEvent struct {
	Sent              int      `json:"sent"`
	Received          int      `json:"received"`
	Direct            bool     `json:"direct"`
	DirectAfterMillis *float64 `json:"direct_after_ms"` // null: never direct
	Path              path     `json:"path"`
}

func (pingDoneEvent) name() string { return "done" }
func (e pingDoneEvent) human(s style) string {
	how := "never direct"
	if e.DirectAfterMillis != nil {
		how = fmt.Sprintf("direct after %v ms", *e.DirectAfterMillis)
	}
	return fmt.Sprintf("done: %d sent, %d received, %s, now %s", e.Sent, e.Received, how, e.Path.paint(s))
}

type speedDoneEvent struct {
	Bytes          int64   `json:"bytes"`
	MbitPerS       float64 `json:"mbit_s"`
	Path           path    `json:"path"`
	DurationMillis float64 `json:"duration_ms"`
	Reverse        bool    `json:"reverse"`
}

func (speedDoneEvent) name() string { return "done" }
func (e speedDoneEvent) human(s style) string {
	direction := "sent"
	if e.Reverse {
		direction = "received"
	}
	d := time.Duration(e.DurationMillis * float64(time.Millisecond)).Round(10 * time.Millisecond)
	return fmt.Sprintf("%s %s in %v: %s, %s", direction, byteCount(e.Bytes), d, s.bold(fmt.Sprintf("%.1f Mbit/s", e.MbitPerS)), e.Path.paint(s))
}

// byteCount writes n with a decimal unit and three digits or so.
func byteCount(n int64) string {
	value, units := float64(n), []string{"bytes", "kB", "MB", "GB", "TB"}
	i := 0
	for ; value >= 1000 && i < len(units)-1; i++ {
		value /= 1000
	}
	if i == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
