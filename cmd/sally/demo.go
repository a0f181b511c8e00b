package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

const (
	demoPings    = 6
	demoInterval = 150 * time.Millisecond
	demoPatience = 8 * time.Second // for registering and for dialing

	blockedPatience = time.Second // where the outcome is known
)

func (r *runner) demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "see two peers behind NATs meet, on this machine alone",
		Description: `Builds a small internet in memory: a node and two peers, each behind an emulated NAT of the given
type, with 20 ms of delay on each peer's uplink. The peers run the real code: they register at the node,
punch a hole, speak QUIC through it, or fall back to the relay. No network and no root is needed.

Types: ` + strings.Join(siteNames(), ", ") + `.

Examples:
  sally demo
  sally demo --left symmetric --right symmetric    # no hole is possible: see the relay
  sally demo --left carrier --right linux --json`,
		Flags: []cli.Flag{
			stringFlag("left", string(natlab.SitePortRestricted), "what stands in front of the left peer: a `TYPE`"),
			stringFlag("right", string(natlab.SitePortRestricted), "what stands in front of the right peer: a `TYPE`"),
		},
		Action: r.action("", func(ctx context.Context, inv *invocation) error {
			left, err := inv.siteKind("left")
			if err != nil {
				return err
			}
			right, err := inv.siteKind("right")
			if err != nil {
				return err
			}
			d, err := newDemo(inv, left, right)
			if err != nil {
				return err
			}
			defer d.close()
			return d.run(ctx)
		}),
	}
}

func siteNames() (names []string) {
	for _, kind := range natlab.SiteKinds() {
		names = append(names, string(kind))
	}
	return names
}

func (inv *invocation) siteKind(flag string) (natlab.SiteKind, error) {
	kind, err := natlab.ParseSiteKind(inv.String(flag))
	if err != nil {
		if guess := nearest(inv.String(flag), siteNames()); guess != "" {
			return "", usagef("--%s %q is no type; did you mean %q? (\"sally demo --help\" lists them)", flag, inv.String(flag), guess)
		}
		return "", usagef("--%s %q is no type: use one of %s", flag, inv.String(flag), strings.Join(siteNames(), ", "))
	}
	return kind, nil
}

// demo is the demo command at work.
type demo struct {
	*invocation
	lab         *demoLab
	left, right *demoPeer
}

func newDemo(inv *invocation, left, right natlab.SiteKind) (d *demo, err error) {
	d = &demo{invocation: inv}
	if d.lab, err = newDemoLab(inv); err != nil {
		return nil, fmt.Errorf("building the small internet: %w", err)
	}
	if d.left, err = d.lab.peer(left, "left"); err == nil {
		d.right, err = d.lab.peer(right, "right")
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("placing a peer: %w", err)
	}
	return d, nil
}

func (d *demo) close() {
	for _, p := range []*demoPeer{d.left, d.right} {
		if p != nil {
			p.host.Close()
		}
	}
	d.lab.close()
}

// step is one line of the story.
func (d *demo) step(format string, args ...any) {
	d.emit(stepEvent{Text: fmt.Sprintf(format, args...)})
}

type stepEvent struct {
	Text string `json:"text"`
}

func (stepEvent) name() string           { return "step" }
func (e stepEvent) human(_ style) string { return e.Text }

func (d *demo) run(ctx context.Context) error {
	if !d.json {
		d.emit(drawing{d})
	}
	d.clock = true
	d.step("the node serves rendezvous, STUN and a relay at %s", d.lab.node.Addr())
	for _, p := range []*demoPeer{d.left, d.right} {
		if err := d.register(ctx, p); err != nil {
			return err
		}
	}
	narration := d.lab.narrate(d) // from here on, packets between the peers are told
	defer narration.stop()
	answering := make(chan struct{})
	defer func() { d.right.host.Close(); <-answering }()
	go func() { // ends with the right host
		defer close(answering)
		d.answer(ctx)
	}()
	return d.ping(ctx)
}

func (d *demo) register(ctx context.Context, p *demoPeer) error {
	patience := demoPatience
	if p.site.Kind == natlab.SiteUDPBlocked {
		patience = blockedPatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.host.Ready(ctx); err != nil {
		return &failure{code: exitFailed, err: fmt.Errorf("%s cannot register: %w", p.name, err),
			fix: "its network lets no UDP out; choose another type for --" + p.name}
	}
	d.step("%s registers at the node through its %s: peer %s", p.name, p.wall(), p.host.PeerID().Short())
	return nil
}

// answer is the right peer: a listener.
func (d *demo) answer(ctx context.Context) {
	for {
		link, err := d.right.host.Accept(ctx)
		if err != nil {
			return
		}
		s := &services{link: link}
		go s.run(ctx) // ends with the link, which ends with the host
	}
}

// ping is the left peer: it calls the right one by its ID and pings it.
func (d *demo) ping(ctx context.Context) error {
	dialing, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	d.step("left calls right by its ID: a sealed offer goes through the node, and both sides knock at each other's NAT")
	p := &pinger{
		invocation: d.invocation, count: demoPings, interval: demoInterval, timeout: demoPatience,
		moved: make(chan struct{}, 1), sentAt: map[uint64]time.Time{}, call: &call{host: d.left.host, asked: time.Now()},
	}
	link, err := d.left.host.Dial(dialing, d.right.ticket())
	if err != nil {
		return dialFailure(err, demoPatience)
	}
	p.link = link
	d.emit(connectedEvent{Peer: link.Peer(), Path: newPath(link.Path()), ElapsedMillis: millis(time.Since(p.asked))})
	if err := p.run(ctx); err != nil {
		return err
	}
	if !d.json {
		d.emit(verdict{p.done.DirectAfterMillis})
	}
	return nil
}

// verdict says in the end what the viewer saw.
type verdict struct{ directAfter *float64 }

func (verdict) name() string { return "verdict" }
func (v verdict) human(s style) string {
	if v.directAfter == nil {
		return s.yellow("the peers cannot reach each other directly") + ": no hole could be punched through this pair of NATs. The data goes through the relay, which sees ciphertext only"
	}
	return s.green("the peers talk directly") + fmt.Sprintf(", %v ms after the call; the node is not needed any more and never saw what they say", *v.directAfter)
}

// drawing is the picture in front of the story.
type drawing struct{ d *demo }

func (drawing) name() string { return "drawing" }
func (p drawing) human(s style) string {
	left, right := p.d.left.column(), p.d.right.column()
	node := []string{"node", p.d.lab.node.Addr().String(), "│", "│"}
	var b strings.Builder
	for i := range left {
		middle := "│"
		if i < len(node) {
			middle = node[i]
		}
		fmt.Fprintf(&b, "%s%s%s\n", centre(left[i], 28), centre(middle, 20), centre(right[i], 28))
	}
	b.WriteString(strings.Repeat(" ", 13) + "└" + strings.Repeat("─", 23) + "┴" + strings.Repeat("─", 23) + "┘\n")
	b.WriteString(centre("the internet: 20 ms on each peer's uplink, 80 ms between the peers and back", 76))
	return b.String()
}

// column draws one side: the peer, its NATs, its public address.
func (p *demoPeer) column() []string {
	site := p.site
	out := []string{p.name, site.Host.Addr().String(), "│"}
	if site.Home == nil {
		return append(out, "no NAT", "│", "│")
	}
	out = append(out, "[ "+string(site.Kind)+" ]")
	outer := site.Home
	if site.Carrier != nil {
		outer = site.Carrier
	}
	address := ""
	if external := outer.External(); len(external) > 0 {
		address = external[0].String()
	}
	return append(out, address, "│")
}

// centre puts text into the middle of width columns.
func centre(text string, width int) string {
	gap := max(0, width-len([]rune(text)))
	return strings.Repeat(" ", gap/2) + text + strings.Repeat(" ", gap-gap/2)
}

// wall names what stands in front of a peer.
func (p *demoPeer) wall() string {
	switch p.site.Kind {
	case natlab.SiteNone:
		return "own public address"
	case natlab.SiteIPv6Firewall:
		return "IPv6 firewall"
	}
	return string(p.site.Kind) + " NAT"
}

// direct reports whether a packet runs between the two sites' outer addresses.
func (d *demo) direct(e natlab.Event) (from, to *demoPeer) {
	for _, pair := range [][2]*demoPeer{{d.left, d.right}, {d.right, d.left}} {
		there := pair[1].at(e.At) || errors.Is(e.Err, natlab.ErrTTL) && slices.Contains(pair[1].outer(), e.Packet.Dst.Addr())
		if there && slices.Contains(pair[0].outer(), e.Packet.Src.Addr()) {
			return pair[0], pair[1]
		}
	}
	return nil, nil
}
