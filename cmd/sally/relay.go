package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous"
)

func (r *runner) relayCommand() *cli.Command {
	return &cli.Command{
		Name:  "relay",
		Usage: "volunteer this machine as a relay",
		Description: `A relay carries the encrypted traffic of pairs that cannot link directly; it cannot read it. This
machine must be reachable: UDP to the port it listens on and to the ports 49152 to 65535. The
node tries that from outside before it hands the relay to anybody, and every minute after.

Examples:
  sally relay --node URL
  sally relay --node URL --listen 0.0.0.0:3500 --max-rate 10mbit
  sally relay --node URL --advertise 203.0.113.5       # the router forwards the ports`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "listen", EnvVars: env("listen"), Usage: "`IP[:PORT]` to relay on; repeatable", DefaultText: "every address, port 3478 or a free one"},
			stringFlag("advertise", "", "`HOST` (name or IP) under which others reach this machine"),
			stringFlag("max-rate", "", "carry no more than `RATE` in all, such as 10mbit"),
			listFlag("relay-allow-peer", "also relay to peers in `CIDR`, which is denied by default if private; repeatable"),
		},
		Action: r.action("", func(ctx context.Context, inv *invocation) error {
			v, err := newVolunteer(inv)
			if err != nil {
				return err
			}
			defer v.close()
			err = v.run(ctx)
			if ctx.Err() != nil {
				return nil // this is how a relay ends
			}
			return err
		}),
	}
}

// volunteer is the relay command at work.
type volunteer struct {
	*invocation
	identity *sallyport.Identity
	nodes    []sallyport.NodeURL
	allow    []netip.Prefix
	rate     int64 // bytes a second, 0: no limit
	sockets  []*listening
	secret   []byte
	server   *relayserver.Server
	once     sync.Once // ready is printed once
}

func newVolunteer(inv *invocation) (v *volunteer, err error) {
	v = &volunteer{invocation: inv, secret: newSecret()}
	if v.nodes, err = inv.needNodes(); err != nil {
		return nil, err
	}
	if v.allow, err = inv.allowPeers(); err != nil {
		return nil, err
	}
	if text := inv.String("max-rate"); text != "" {
		rate, err := parseRate(text)
		if err != nil {
			return nil, err
		}
		v.rate = int64(rate / 8)
	}
	addrs, err := parseListen(inv.StringSlice("listen"))
	if err != nil {
		return nil, err
	}
	if v.identity, err = inv.identity(); err != nil {
		return nil, err
	}
	if v.sockets, err = listenVolunteer(addrs); err != nil {
		return nil, &failure{code: exitFailed, err: err, fix: "stop what uses the port, or choose another with --listen IP:PORT"}
	}
	return v, nil
}

// listenVolunteer opens what was asked for, or the usual port, or any: the node learns the port.
func listenVolunteer(addrs []netip.AddrPort) ([]*listening, error) {
	var out []*listening
	for _, addr := range addrs {
		l, err := listenOn(addr)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, l)
	}
	if len(addrs) > 0 {
		return out, nil
	}
	if out, err := listenDefault(sallyport.DefaultNodePort); err == nil {
		return out, nil
	}
	return listenDefault(0)
}

// run asks the first node that answers how it sees this machine, starts the relay there, and
// offers it to every node until ctx ends.
func (v *volunteer) run(ctx context.Context) error {
	observed, err := v.observed(ctx)
	if err != nil {
		return err
	}
	if err := v.start(ctx, observed); err != nil {
		return err
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	for _, url := range v.nodes {
		client, err := rendezvous.New(v.clientConfig(url))
		if err != nil {
			return fmt.Errorf("volunteering: %w", err)
		}
		clients.Go(func() {
			defer client.Close()
			client.Run(ctx) // ends with ctx
		})
	}
	<-ctx.Done()
	return nil
}

// observed returns the address at which a node sees this machine.
func (v *volunteer) observed(ctx context.Context) (netip.Addr, error) {
	found := make(chan netip.Addr, len(v.nodes))
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for _, url := range v.nodes {
		client, err := rendezvous.New(rendezvous.Config{Identity: v.identity, Node: url, Logger: v.log})
		if err != nil {
			return netip.Addr{}, fmt.Errorf("asking the node: %w", err)
		}
		clients.Go(func() {
			defer client.Close()
			client.Run(ctx)
		})
		clients.Go(func() {
			if r, err := client.Ready(ctx); err == nil {
				found <- r.Observed.Addr().Unmap()
			}
		})
	}
	v.progress("registering at the node …")
	defer v.progress("")
	patience := time.NewTimer(registerPatience)
	defer patience.Stop()
	for {
		select {
		case addr := <-found:
			return addr, nil
		case <-patience.C:
			v.note("sally: no node could be reached yet, still trying: check the node's URL and that UDP to its port is let out")
		case <-ctx.Done():
			return netip.Addr{}, ctx.Err()
		}
	}
}

// start starts the relay under --advertise, or else under the address that the node sees.
func (v *volunteer) start(ctx context.Context, observed netip.Addr) error {
	host := v.String("advertise")
	if host == "" && observed.IsValid() {
		host = observed.String()
	}
	if _, err := advertised(ctx, host, v.sockets); err != nil {
		return err
	}
	for _, l := range v.sockets { // the node lists what it sees itself, what is public, and what was named
		if ip := l.advertise.Addr(); v.String("advertise") == "" && ip != observed && !isPublic(ip) {
			l.advertise = netip.AddrPort{}
		}
	}
	cfg := relayserver.Config{
		Relay:      relayAddrs(v.sockets),
		Secrets:    func() [][]byte { return [][]byte{v.secret} },
		AllowPeers: v.allow,
		Rates:      relayserver.Rates{Relay: v.rate},
		Logger:     v.log,
	}
	if len(cfg.Relay) == 0 {
		return &failure{code: exitFailed, err: errors.New("this machine has no address that others could reach"), fix: "name one with --advertise HOST"}
	}
	for _, l := range v.sockets {
		cfg.Conns = append(cfg.Conns, l.conn)
	}
	var err error
	if v.server, err = relayserver.New(cfg); err != nil {
		return fmt.Errorf("starting the relay: %w", err)
	}
	return nil
}

func (v *volunteer) clientConfig(url sallyport.NodeURL) rendezvous.Config {
	offer := &rendezvous.Volunteer{Name: "volunteer " + v.identity.PeerID().Short(), Secret: v.secret}
	for _, l := range v.sockets {
		if l.advertise.IsValid() && len(offer.Addrs) < maxAdvertised {
			offer.Addrs = append(offer.Addrs, l.advertise)
		}
	}
	return rendezvous.Config{
		Identity: v.identity, Node: url, Volunteer: offer, Logger: v.log,
		OnVolunteer: func(s rendezvous.VolunteerStatus) { v.status(url, s) },
	}
}

// status tells what a node found when it tried the relay from outside.
func (v *volunteer) status(url sallyport.NodeURL, s rendezvous.VolunteerStatus) {
	if len(s.Addrs) == 0 {
		v.emit(unlistedEvent{Node: url.String(), Why: s.Reason})
		v.note("sally: the node %s does not list this relay: %s", url.HostPort(), s.Reason)
		v.note("fix: let UDP in to the port of --listen and to 49152-65535, or forward them and use --advertise PUBLIC-ADDRESS; trying again every minute")
		return
	}
	if s.Reason != "" {
		v.note("sally: the node %s lists only a part of this relay's addresses: %s", url.HostPort(), s.Reason)
	}
	first := true
	v.once.Do(func() {
		first = false
		v.emit(relayReadyEvent{Relay: s.Addrs[0].String(), Addrs: s.Addrs, Node: url.String()})
	})
	if first {
		v.note("the node %s lists this relay at %s", url.HostPort(), joinAddrs(s.Addrs))
	}
}

func joinAddrs(addrs []netip.AddrPort) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

func (v *volunteer) close() {
	if v.server != nil {
		v.server.Close()
	}
	closeAll(v.sockets)
}

// unlistedEvent says that a node does not hand the relay out, now or any more.
type unlistedEvent struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

func (unlistedEvent) name() string           { return "unlisted" }
func (e unlistedEvent) human(_ style) string { return "" } // said on stderr, with the fix

type relayReadyEvent struct {
	Relay string           `json:"relay"`
	Addrs []netip.AddrPort `json:"addrs"`
	Node  string           `json:"node"`
}

func (relayReadyEvent) name() string { return "ready" }
func (e relayReadyEvent) human(s style) string {
	return "relay " + s.bold(joinAddrs(e.Addrs)) + ", listed by the node"
}
