package natlab

import (
	"fmt"
	"slices"
	"time"
)

// FirewallMode says what a Firewall lets through.
type FirewallMode uint8

const (
	// FirewallOpen lets everything through.
	FirewallOpen FirewallMode = iota
	// FirewallStateful lets everything out and in only what answers a flow from inside: same two
	// endpoints, within the lifetime (RFC 6092, REC-14 to REC-18, "address-dependent or stricter").
	FirewallStateful
	// FirewallUDPBlocked lets no UDP out or in, except flows from inside to AllowPorts.
	FirewallUDPBlocked
)

// FirewallConfig describes a firewall. The zero value is open.
type FirewallConfig struct {
	Mode FirewallMode
	// AllowPorts are the remote ports that FirewallUDPBlocked lets inside hosts talk to.
	AllowPorts []uint16
	// Lifetime of an idle flow; zero: 2 minutes; negative: for ever. Packets of both directions refresh it.
	Lifetime time.Duration
	// MaxSessions bounds the flows; zero: 65,536; negative: no bound.
	MaxSessions int
}

// Firewall filters UDP over IPv4 and IPv6 without translating it. It is as pure as NAT.
type Firewall struct {
	cfg       FirewallConfig
	flows     map[flow]time.Time
	nextSweep time.Time
	lastSweep time.Time
}

// NewFirewall returns a firewall that has seen no flow. The error wraps ErrConfig.
func NewFirewall(cfg FirewallConfig) (*Firewall, error) {
	if cfg.Mode > FirewallUDPBlocked {
		return nil, fmt.Errorf("%w: firewall mode %d", ErrConfig, cfg.Mode)
	}
	cfg.AllowPorts = slices.Clone(cfg.AllowPorts)
	cfg.Lifetime = orDefault(cfg.Lifetime, defaultLifetime)
	cfg.MaxSessions = orDefault(cfg.MaxSessions, defaultMaxSessions)
	return &Firewall{cfg: cfg, flows: map[flow]time.Time{}}, nil
}

// Reset forgets all flows, as a reboot does.
func (f *Firewall) Reset() { clear(f.flows) }

// Outbound decides on a packet from the inside. Errors: ErrBlocked, ErrExhausted.
func (f *Firewall) Outbound(now time.Time, p Packet) error {
	if f.cfg.Mode == FirewallOpen {
		return nil
	}
	if f.cfg.Mode == FirewallUDPBlocked && !slices.Contains(f.cfg.AllowPorts, p.Dst.Port()) {
		return ErrBlocked
	}
	if !now.Before(f.nextSweep) {
		f.sweep(now)
	}
	k := flow{p.Src, p.Dst}
	if _, ok := f.flows[k]; !ok && f.full(now) {
		return ErrExhausted
	}
	f.flows[k] = now
	return nil
}

// Inbound decides on a packet from the outside. Errors: ErrBlocked, ErrFiltered.
func (f *Firewall) Inbound(now time.Time, p Packet) error {
	if f.cfg.Mode == FirewallOpen {
		return nil
	}
	k := flow{p.Dst, p.Src}
	if at, ok := f.flows[k]; ok && !f.idle(now, at) {
		f.flows[k] = now
		return nil
	}
	if f.cfg.Mode == FirewallUDPBlocked {
		return ErrBlocked
	}
	return ErrFiltered
}

func (f *Firewall) idle(now, at time.Time) bool {
	return f.cfg.Lifetime > 0 && now.Sub(at) >= f.cfg.Lifetime
}

func (f *Firewall) full(now time.Time) bool {
	if f.cfg.MaxSessions < 0 || len(f.flows) < f.cfg.MaxSessions {
		return false
	}
	if now.After(f.lastSweep) {
		f.sweep(now)
	}
	return len(f.flows) >= f.cfg.MaxSessions
}

func (f *Firewall) sweep(now time.Time) {
	for k, at := range f.flows {
		if f.idle(now, at) {
			delete(f.flows, k)
		}
	}
	f.lastSweep, f.nextSweep = now, now.Add(max(f.cfg.Lifetime, time.Minute)/4)
}
