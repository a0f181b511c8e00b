// Package rendezvous gets a message to a peer of which only the PeerID is
// known, and the answer back, through a node that both can reach.
//
// Most callers make a [Client], keep [Client.Run] going, and then either place
// calls or are called:
//
//	client, err := rendezvous.New(rendezvous.Config{Identity: id, Node: node, OnCall: answer})
//	go client.Run(ctx)
//	call, err := client.Call(ctx, callee, offer)
//	defer call.Close()
//	answer, err := call.Receive(ctx)
//
// A call is a small, short-lived conversation: the offer, then messages both
// ways, 16 KB in all and 30 seconds. Everything is one flight: the offer
// leaves as the stream opens, the node passes each message on as it comes, so
// that the answer is there one round trip between the peers (over the node)
// after the call.
//
// Guarantees. The node's key is pinned and the peer's identity is its TLS key
// (QUIC, TLS 1.3, both sides), so nobody can register or call under a name
// that is not his. A client survives the death of its node: Run reconnects,
// at once where the node says that it restarted (RFC 9000 section 10.3), with
// jittered backoff otherwise. No clock of a peer matters. Nothing is kept for
// a peer that is offline. Two programs that hold the same key do not fight:
// the one that started last is registered, the other waits for it to leave.
//
// Limits. The node sees who calls whom and how much, and could drop or delay;
// it is the callers' part to seal what they send. The package knows nothing of
// what it carries. A call that was under way when the node died is lost and
// says so with a [NodeError].
package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const (
	// MaxMessage is the size in bytes of the largest offer or message.
	MaxMessage = wire.MaxMessage
	// CallBudget is how many bytes of offer and messages one call carries,
	// both directions together.
	CallBudget = wire.CallBudget
	// CallLifetime is how long a call lasts at most.
	CallLifetime = 30 * time.Second
	// MaxReason is the length in bytes to which [Call.Refuse] cuts its reason.
	MaxReason = wire.MaxReason
	// Protocol is what a node's QUIC port speaks (ALPN, RFC 7301).
	Protocol = wire.Protocol
)

// Config says who this client is and where its node is.
type Config struct {
	Identity *sallyport.Identity // required
	Node     sallyport.NodeURL   // required

	// DialContext opens the connection; nil dials from a UDP socket of the
	// client's own. It must use the TLS and QUIC configurations as given.
	DialContext func(ctx context.Context, addr string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error)

	// OnCall is run for each incoming call, in a goroutine of its own, at most
	// 64 at a time; it owns the call and closes it. With nil this peer is not
	// callable: it only calls.
	OnCall func(*Call)

	// OnRegistered is run after each registration, and again when the address
	// at which the node sees this peer changed. It must not block.
	OnRegistered func(Registration)

	// Volunteer offers this peer's relay to others; nil does not.
	Volunteer *Volunteer
	// OnVolunteer is run with what the node found when it tried the relay from
	// outside, each time that changes. It must not block.
	OnVolunteer func(VolunteerStatus)

	// KeepAlive is how often the client asks the node for a sign of life, and
	// keeps the NAT mapping open. Zero is 15 seconds.
	KeepAlive time.Duration

	Logger *slog.Logger // nil is silent
}

// Volunteer describes the relay that this peer runs.
type Volunteer struct {
	Name   string           // at most 32 bytes, shown to users
	Realm  string           // at most 64 bytes, as the relay sends it
	Addrs  []netip.AddrPort // 1 to 8; an unspecified IP stands for the one at which the node sees this peer
	Secret []byte           // 16 to 64 bytes: the node mints credentials with it
}

// VolunteerStatus says whether the node lists this peer's relay.
type VolunteerStatus struct {
	Addrs  []netip.AddrPort // the addresses that are listed; none: the relay is not
	Reason string           // why an address is not, empty if all are
}

// Registration is what the node said when this peer registered.
type Registration struct {
	Observed netip.AddrPort   // where the node sees this peer
	NodeAddr netip.AddrPort   // where the node was reached
	RTT      time.Duration    // smoothed, to the node
	NodeTime time.Time        // by the node's clock
	STUN     []netip.AddrPort // where the node answers STUN, the address of this connection first
}

// Relay is a TURN server that the node knows, with a credential minted for
// this peer.
type Relay struct {
	Name               string
	ID                 sallyport.PeerID // zero if it is not a peer's
	Addrs              []netip.AddrPort
	Username, Password string
	Realm              string    // empty: as the server says
	Expires            time.Time // by this peer's clock
}

func (cfg *Config) check() error {
	switch {
	case cfg.Identity == nil:
		return errors.New("rendezvous: Config.Identity is nil")
	case cfg.Node.ID.IsZero() || cfg.Node.Host == "":
		return errors.New("rendezvous: Config.Node is empty")
	case cfg.Volunteer == nil:
		return nil
	}
	v := cfg.Volunteer
	switch n := len(v.Secret); {
	case n < wire.MinSecret || n > wire.MaxSecret:
		return fmt.Errorf("rendezvous: volunteer's secret has %d bytes, want %d to %d", n, wire.MinSecret, wire.MaxSecret)
	case len(v.Addrs) == 0 || len(v.Addrs) > wire.MaxAddrs:
		return fmt.Errorf("rendezvous: volunteer has %d addresses, want 1 to %d", len(v.Addrs), wire.MaxAddrs)
	case len(v.Name) > wire.MaxName || len(v.Realm) > wire.MaxRealm:
		return fmt.Errorf("rendezvous: volunteer's name or realm is longer than %d or %d bytes", wire.MaxName, wire.MaxRealm)
	}
	return nil
}
