package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/relay"
	relayserver "github.com/sallyport-net/sallyport/relay/server"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/server"
)

const (
	roleRendezvous = "rendezvous"
	roleSTUN       = "stun"
	roleRelay      = "relay"

	defaultAdmin = "127.0.0.1:9478"
	maxRelayName = 32
)

func (r *runner) serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a node: rendezvous, STUN and relay on one UDP port",
		Description: `Prints the node's URL, which peers take as --node. It needs one UDP port that others can reach
(3478 by default), and for the relay the UDP ports 49152 to 65535. The node's key and the
relay's secret stay in the data folder.

Examples:
  sally serve                                          # every address of this machine
  sally serve --advertise node.example.net             # behind 1:1 NAT, or to have a name in the URL
  sally serve --listen 203.0.113.5 --listen 203.0.113.6   # also answers RFC 5780's NAT tests
  sally serve --role rendezvous,stun                   # carries no data of others
  sally serve --relay-allow-peer 192.168.0.0/16        # also relays within a private network`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "role", EnvVars: env("role"), Usage: "what to serve: rendezvous, stun, relay", DefaultText: "all three"},
			&cli.StringSliceFlag{Name: "listen", EnvVars: env("listen"), Usage: "`IP[:PORT]` to serve on; repeatable", DefaultText: "every address, port 3478"},
			stringFlag("advertise", "", "`HOST` (name or IP) under which others reach this machine"),
			dataFlag(),
			stringFlag("admin", defaultAdmin, "`ADDR` for health and metrics over HTTP, or off"),
			listFlag("relay-allow-peer", "also relay to peers in `CIDR`, which is denied by default if private; repeatable"),
		},
		Action: r.action("", func(ctx context.Context, inv *invocation) error {
			n, err := newNode(ctx, inv)
			if err != nil {
				return err
			}
			return n.run(ctx)
		}),
	}
}

// node is the serve command at work.
type node struct {
	*invocation
	roles     map[string]bool
	identity  *sallyport.Identity
	data      dataDir
	secrets   [][]byte
	sockets   []*listening
	advertise *advertising

	rendezvous *server.Server
	relay      *relayserver.Server // nil without the role
	admin      *admin              // nil where it is off
}

func newNode(ctx context.Context, inv *invocation) (n *node, err error) {
	n = &node{invocation: inv, data: dataDir(inv.String("data"))}
	if n.roles, err = inv.roles(); err != nil {
		return nil, err
	}
	allow, err := inv.allowPeers()
	if err != nil {
		return nil, err
	}
	addrs, err := parseListen(inv.StringSlice("listen"))
	if err != nil {
		return nil, err
	}
	if err := n.open(ctx, addrs); err != nil {
		return nil, err
	}
	err = n.load()
	if err == nil {
		err = n.wire(allow)
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// load reads the node's key and the relay's secrets, or makes them.
func (n *node) load() (err error) {
	if n.identity, err = n.data.identity(); err == nil && n.roles[roleRelay] {
		n.secrets, err = n.data.secrets(true)
	}
	return err
}

func (inv *invocation) roles() (map[string]bool, error) {
	roles := map[string]bool{}
	for _, role := range inv.StringSlice("role") {
		role = strings.TrimSpace(role)
		if !slices.Contains([]string{roleRendezvous, roleSTUN, roleRelay}, role) {
			return nil, usagef("--role %q is none: use rendezvous, stun, relay, or several with commas", role)
		}
		roles[role] = true
	}
	if len(roles) == 0 {
		roles = map[string]bool{roleRendezvous: true, roleSTUN: true, roleRelay: true}
	}
	return roles, nil
}

func (inv *invocation) allowPeers() (out []netip.Prefix, err error) {
	for _, text := range inv.StringSlice("relay-allow-peer") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, usagef("--relay-allow-peer %q: want a network such as 192.168.0.0/16", text)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}

// open binds the sockets and the admin listener and finds out how the world reaches them.
func (n *node) open(ctx context.Context, addrs []netip.AddrPort) (err error) {
	if len(addrs) == 0 {
		n.sockets, err = listenDefault(sallyport.DefaultNodePort)
	} else {
		n.sockets, err = listenAll(addrs)
	}
	if err != nil {
		return &failure{code: exitFailed, err: err, fix: "stop what uses the port, or choose another with --listen IP:PORT"}
	}
	if n.advertise, err = advertised(ctx, n.String("advertise"), n.sockets); err != nil {
		closeAll(n.sockets)
		return err
	}
	if n.advertise.host == "" {
		closeAll(n.sockets)
		return &failure{code: exitFailed, err: errors.New("this machine has no address that others could reach"),
			fix: "name one with --advertise HOST, or listen on loopback with --listen 127.0.0.1"}
	}
	if n.admin, err = openAdmin(n.invocation, n); err != nil {
		closeAll(n.sockets)
		return err
	}
	return nil
}

// wire puts the packages together.
func (n *node) wire(allow []netip.Prefix) (err error) {
	cfg := server.Config{
		Identity:     n.identity,
		Mint:         relay.MintCredential,
		ProbeRelay:   n.probe,
		NoRendezvous: !n.roles[roleRendezvous],
		NoSTUN:       !n.roles[roleSTUN],
		Logger:       n.log,
	}
	for _, l := range n.sockets {
		cfg.Conns = append(cfg.Conns, l.conn)
		cfg.Advertise = append(cfg.Advertise, l.advertise)
	}
	if n.roles[roleRelay] {
		cfg.Relays = []server.StaticRelay{{
			Name: n.advertise.host[:min(len(n.advertise.host), maxRelayName)], ID: n.identity.PeerID(),
			Addrs: n.advertised(), Secret: func() []byte { return n.secrets[0] },
		}}
	}
	if n.rendezvous, err = server.New(cfg); err != nil {
		return fmt.Errorf("starting the node: %w", err)
	}
	if n.roles[roleRelay] {
		return n.startRelay(allow)
	}
	return nil
}

func (n *node) startRelay(allow []netip.Prefix) (err error) {
	cfg := relayserver.Config{
		Secrets:    func() [][]byte { return n.secrets },
		AllowPeers: allow,
		Relay:      relayAddrs(n.sockets),
		Logger:     n.log,
	}
	for i := range n.sockets {
		cfg.Conns = append(cfg.Conns, n.rendezvous.TURN(i))
	}
	if n.admin != nil {
		cfg.OwnAddrs = append(cfg.OwnAddrs, n.admin.addr)
	}
	if n.relay, err = relayserver.New(cfg); err != nil {
		return fmt.Errorf("starting the relay: %w", err)
	}
	return nil
}

// relayAddrs says where relayed sockets are opened: one address for each family.
func relayAddrs(sockets []*listening) (out []relayserver.RelayAddr) {
	seen := map[bool]bool{}
	for _, l := range sockets {
		v4 := l.addr.Addr().Is4()
		if seen[v4] || !l.advertise.IsValid() {
			continue
		}
		seen[v4] = true
		out = append(out, relayserver.RelayAddr{Listen: l.addr.Addr(), Advertise: l.advertise.Addr()})
	}
	return out
}

// probe tries a volunteer's relay from outside.
func (n *node) probe(ctx context.Context, r rendezvous.Relay) error {
	for _, addr := range r.Addrs {
		err := relay.Probe(ctx, relay.Config{Server: addr, Username: r.Username, Password: r.Password, Logger: n.log})
		if err != nil {
			return err
		}
	}
	return nil
}

// advertised lists the main sockets' addresses as the world reaches them.
func (n *node) advertised() (out []netip.AddrPort) {
	for _, l := range n.sockets {
		if l.advertise.IsValid() && !l.alternate {
			out = appendNew(out, l.advertise)
		}
	}
	return out[:min(len(out), maxAdvertised)]
}

const maxAdvertised = 8 // as rendezvous/server takes

func (n *node) url() sallyport.NodeURL {
	return sallyport.NodeURL{ID: n.identity.PeerID(), Host: n.advertise.host, Port: n.sockets[0].addr.Port()}
}

func (n *node) run(ctx context.Context) error {
	defer n.close()
	e := nodeReadyEvent{Node: n.url().String(), STUN: []string{}, Relay: []string{}}
	for _, a := range n.advertised() {
		if n.roles[roleSTUN] {
			e.STUN = append(e.STUN, a.String())
		}
		if n.roles[roleRelay] {
			e.Relay = append(e.Relay, a.String())
		}
	}
	if n.admin != nil {
		e.Admin = n.admin.addr.String()
	}
	if err := n.data.announce(announcement{Node: e.Node, Relay: e.Relay}); err != nil {
		n.note("sally: warning: \"sally credential\" will not know this node's address: %v", err)
	}
	n.explain()
	n.emit(e)
	n.hint("on a peer: sally listen --node %s --allow any --echo", e.Node)
	n.admin.serve()
	err := n.rendezvous.Run(ctx)
	if ctx.Err() != nil {
		return nil // this is how a node ends
	}
	return err
}

// explain warns about what will not work.
func (n *node) explain() {
	public := n.String("advertise") != ""
	for _, a := range n.advertised() {
		public = public || isPublic(a.Addr())
		n.log.Info("node serves", "address", a)
	}
	if !public {
		n.note("sally: warning: this machine has no public address (%s): only peers in its own network reach this node; if the router forwards UDP %d, use --advertise PUBLIC-ADDRESS",
			n.advertise.host, n.sockets[0].addr.Port())
	}
}

func (n *node) close() {
	if n.relay != nil {
		n.relay.Close()
	}
	if n.rendezvous != nil {
		n.rendezvous.Close()
	}
	n.admin.close()
	closeAll(n.sockets)
}

type nodeReadyEvent struct {
	Node  string   `json:"node"`
	STUN  []string `json:"stun"`
	Relay []string `json:"relay"`
	Admin string   `json:"admin,omitempty"`
}

func (nodeReadyEvent) name() string { return "ready" }
func (e nodeReadyEvent) human(s style) string {
	lines := []string{"node  " + s.bold(e.Node)}
	if len(e.STUN) > 0 {
		lines = append(lines, "stun  "+strings.Join(e.STUN, " "))
	}
	if len(e.Relay) > 0 {
		lines = append(lines, "relay "+strings.Join(e.Relay, " "))
	}
	if e.Admin != "" {
		lines = append(lines, "admin http://"+e.Admin+"/metrics /livez /readyz")
	}
	return strings.Join(lines, "\n")
}
