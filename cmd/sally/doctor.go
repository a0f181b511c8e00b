package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/behavior"
)

func (r *runner) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "say what this network does to peers",
		Description: `Asks the nodes' STUN servers how this machine looks from outside and by which rules its NAT
and firewall work. It registers nowhere and needs no identity; any STUN server will do. A
node that listens on two addresses, or two nodes, tell more than one.

Examples:
  sally doctor --node URL
  sally doctor --stun stun.example.net:3478 --stun 203.0.113.9:3478 --json`,
		Flags: []cli.Flag{listFlag("stun", "a STUN server as `HOST:PORT`; repeatable")},
		Action: r.action("", func(ctx context.Context, inv *invocation) error {
			servers, err := inv.stunServers(ctx)
			if err != nil {
				return err
			}
			inv.progress("asking %d STUN servers …", len(servers))
			report, err := behavior.Measure(ctx, behavior.Config{Servers: servers})
			inv.progress("")
			if err != nil {
				return err
			}
			inv.emit(newReport(report))
			return nil
		}),
	}
}

const maxSTUNServers = 16

// stunServers resolves every --node and --stun.
func (inv *invocation) stunServers(ctx context.Context) (out []netip.AddrPort, err error) {
	nodes, err := inv.nodes()
	if err != nil {
		return nil, err
	}
	hosts := inv.StringSlice("stun")
	for _, n := range nodes {
		hosts = append(hosts, n.HostPort())
	}
	if len(hosts) == 0 {
		return nil, usagef("no server to ask: use --node URL or --stun HOST:PORT")
	}
	for _, text := range hosts {
		addrs, err := resolve(ctx, text)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			out = appendNew(out, a)
		}
	}
	return out[:min(len(out), maxSTUNServers)], nil
}

// resolve returns the first address of each family.
func resolve(ctx context.Context, hostPort string) (out []netip.AddrPort, err error) {
	host, portText, err := net.SplitHostPort(hostPort)
	if err != nil {
		host, portText = hostPort, strconv.Itoa(sallyport.DefaultNodePort)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, usagef("%q: want HOST:PORT with a port from 1 to 65535", hostPort)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &failure{code: exitFailed, err: fmt.Errorf("finding the address of %s: %w", host, err),
			fix: "check the name and this machine's DNS, or use an IP address"}
	}
	seen := map[bool]bool{}
	for _, a := range addrs {
		if a = a.Unmap(); !seen[a.Is4()] {
			seen[a.Is4()] = true
			out = append(out, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	return out, nil
}

// reportEvent is the doctor's report; what is not measured is null or "unknown".
type reportEvent struct {
	UDP       bool               `json:"udp"`
	IPv4      familyReport       `json:"ipv4"`
	IPv6      familyReport       `json:"ipv6"`
	NATLayers *int               `json:"nat_layers"`
	PortMap   portMapReport      `json:"portmap"`
	TCP443    *bool              `json:"tcp443"`
	MTU       *int               `json:"mtu"`
	Relays    []string           `json:"relays"`
	Findings  []behavior.Finding `json:"findings"`
}

type familyReport struct {
	Mapped     *netip.AddrPort     `json:"mapped"`
	Mapping    behavior.Behavior   `json:"mapping"`
	Filtering  behavior.Behavior   `json:"filtering"`
	Allocation behavior.Allocation `json:"allocation"`
	LifetimeS  *float64            `json:"lifetime_s"`
	Hairpin    *bool               `json:"hairpin"`
}

type portMapReport struct {
	PCP    *bool `json:"pcp"`
	NATPMP *bool `json:"natpmp"`
	UPnP   *bool `json:"upnp"`
}

func newReport(r *behavior.Report) reportEvent {
	return reportEvent{UDP: r.UDP, IPv4: newFamily(&r.IPv4), IPv6: newFamily(&r.IPv6), Relays: []string{}, Findings: r.Findings()}
}

func newFamily(f *behavior.Family) familyReport {
	out := familyReport{Mapping: f.Mapping, Filtering: f.Filtering, Allocation: f.Allocation}
	if f.Mapped.IsValid() {
		out.Mapped = &f.Mapped
	}
	return out
}

func (reportEvent) name() string { return "report" }

// human is one line for each finding, the worst first, with what to do below it.
func (e reportEvent) human(s style) string {
	var b strings.Builder
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "%s %s\n", severityMark(s, f.Severity), f.Text)
		if f.Fix != "" {
			fmt.Fprintf(&b, "        %s\n", s.dim("fix: "+f.Fix))
		}
	}
	for _, f := range []struct {
		name string
		familyReport
	}{{"IPv4", e.IPv4}, {"IPv6", e.IPv6}} {
		if f.Mapped != nil {
			fmt.Fprintf(&b, "%s: seen as %s, mapping %s, filtering %s, ports %s\n", f.name, f.Mapped, f.Mapping, f.Filtering, f.Allocation)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func severityMark(s style, severity behavior.Severity) string {
	text := fmt.Sprintf("%-7s", severity)
	switch severity {
	case behavior.Bad:
		return s.red(text)
	case behavior.Warning:
		return s.yellow(text)
	case behavior.Good:
		return s.green(text)
	}
	return text
}
