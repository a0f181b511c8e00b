package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	credentialTTL = 10 * time.Minute
	maxHandedOut  = 4 // relays in one answer
	maxVolunteers = 256
	maxNeighbours = 16 // volunteers of one network
	probeEvery    = time.Minute
	probeRetry    = 5 * time.Second // after the first failure of a relay that was fine
	probeTimeout  = 10 * time.Second
	probesAtOnce  = 8
	probeUser     = "probe"
)

// relayList knows the relays of this node and of volunteers.
type relayList struct {
	server *Server
	probes chan struct{} // one token for each probe under way

	mu         sync.Mutex // guards what follows
	volunteers int        // sessions that volunteer, listed or not
	networks   map[netip.Prefix]int
	listed     map[*session]volunteer
}

// volunteer is a relay that was found to work.
type volunteer struct {
	id     sallyport.PeerID
	name   string
	realm  string
	secret []byte
	addrs  []netip.AddrPort
	offset time.Duration // how far the volunteer's clock is ahead of ours
}

func newRelayList(s *Server) *relayList {
	return &relayList{
		server: s, probes: make(chan struct{}, probesAtOnce),
		networks: make(map[netip.Prefix]int), listed: make(map[*session]volunteer),
	}
}

func (l *relayList) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.listed)
}

// pick returns the relays for a peer with credentials: this node's first, then
// volunteers in an order that differs from peer to peer.
func (l *relayList) pick(s *session, now time.Time) wire.Relays {
	mint := l.server.cfg.Mint
	if mint == nil {
		return nil
	}
	var out wire.Relays
	add := func(v volunteer) {
		user, password := mint(v.secret, s.id.String(), now.Add(v.offset+credentialTTL))
		out = append(out, wire.Relay{
			ID: v.id, Name: v.name, Realm: v.realm, Addrs: v.addrs,
			Username: user, Password: password, TTL: credentialTTL,
		})
	}
	for _, r := range l.server.cfg.Relays {
		if len(out) < maxHandedOut && r.Secret != nil {
			add(volunteer{id: r.ID, name: r.Name, realm: r.Realm, addrs: r.Addrs, secret: r.Secret()})
		}
	}
	for _, v := range l.spread(s.id) {
		if len(out) < maxHandedOut {
			add(v)
		}
	}
	return out
}

// spread orders the volunteers by a hash of the peer and the volunteer, so that
// each gets an equal share of peers and a peer keeps to the same ones.
func (l *relayList) spread(peer sallyport.PeerID) []volunteer {
	type ranked struct {
		volunteer
		rank uint64
	}
	l.mu.Lock()
	all := make([]ranked, 0, len(l.listed))
	for _, v := range l.listed {
		if v.id != peer {
			sum := sha256.Sum256(append(peer[:], v.id[:]...))
			all = append(all, ranked{v, binary.BigEndian.Uint64(sum[:])})
		}
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	out := make([]volunteer, 0, maxHandedOut)
	for _, v := range all[:min(len(all), maxHandedOut)] {
		out = append(out, v.volunteer)
	}
	return out
}

// volunteer tries the relay of s from outside, now and every minute, lists it
// while it works and tells s what was found. It returns when ctx ends.
func (l *relayList) volunteer(ctx context.Context, s *session, hello wire.Hello, control *control) {
	v := volunteer{
		id: s.id, name: hello.Volunteer.Name, realm: hello.Volunteer.Realm,
		secret: hello.Volunteer.Secret, offset: hello.Time.Sub(time.Now()),
	}
	network := wide(s.observed())
	if !l.enroll(network) {
		control.write(wire.Listed{Reason: "this node has enough volunteers"}.Append(nil))
		return
	}
	defer l.dismiss(s, network)
	var told *wire.Listed
	for failed := false; ; {
		found := l.probe(ctx, s, &v, hello.Volunteer.Addrs)
		if ctx.Err() != nil {
			return
		}
		again := probeEvery
		if failed = len(found.Addrs) == 0 && !failed; failed && told != nil && len(told.Addrs) > 0 {
			again = probeRetry // it worked a minute ago: look twice before telling
		} else {
			l.list(s, v, found)
			if told == nil || told.Reason != found.Reason || !slices.Equal(told.Addrs, found.Addrs) {
				control.write(found.Append(nil))
			}
			told = &found
		}
		if !sleep(ctx, again) {
			return
		}
	}
}

func (l *relayList) enroll(network netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.volunteers >= maxVolunteers || l.networks[network] >= maxNeighbours || l.server.cfg.ProbeRelay == nil {
		return false
	}
	l.volunteers++
	l.networks[network]++
	return true
}

func (l *relayList) dismiss(s *session, network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.volunteers--
	if l.networks[network]--; l.networks[network] == 0 {
		delete(l.networks, network)
	}
	delete(l.listed, s)
}

func (l *relayList) list(s *session, v volunteer, found wire.Listed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(found.Addrs) == 0 {
		delete(l.listed, s)
		return
	}
	v.addrs = found.Addrs
	l.listed[s] = v
}

// probe tries each address of a volunteer by itself.
func (l *relayList) probe(ctx context.Context, s *session, v *volunteer, addrs []netip.AddrPort) wire.Listed {
	var found wire.Listed
	var failures []string
	for _, addr := range addrs {
		seen := s.observed().Addr()
		if addr.Addr().IsUnspecified() {
			addr = netip.AddrPortFrom(seen, addr.Port())
		}
		err := allowed(addr, seen)
		if err == nil {
			err = l.probeAddr(ctx, v, addr)
		}
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s: %v", addr, err))
		} else if !slices.Contains(found.Addrs, addr) {
			found.Addrs = append(found.Addrs, addr)
		}
	}
	found.Reason = strings.Join(failures, "; ")
	return found
}

func (l *relayList) probeAddr(ctx context.Context, v *volunteer, addr netip.AddrPort) error {
	select {
	case l.probes <- struct{}{}:
		defer func() { <-l.probes }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.server.cfg.Mint == nil {
		return errors.New("node mints no credentials")
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	now := time.Now()
	user, password := l.server.cfg.Mint(v.secret, probeUser, now.Add(v.offset+credentialTTL))
	return l.server.cfg.ProbeRelay(ctx, rendezvous.Relay{
		Name: v.name, ID: v.id, Realm: v.realm, Addrs: []netip.AddrPort{addr},
		Username: user, Password: password, Expires: now.Add(credentialTTL),
	})
}

// sleep reports false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
