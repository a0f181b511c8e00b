// Package relay is a socket at a TURN server (RFC 8656): what a peer sends to the relayed address
// arrives here, and what is written here leaves from the relayed address.
//
// [Allocate] gets a relayed address and keeps it: it refreshes the allocation, its permissions
// and its channels until [Allocation.Close], or until the server loses them ([Allocation.Done]).
// [Allocation.WriteTo] never waits for the server: the first packet to a new peer follows the
// ChannelBind request that permits it, packets before its answer travel as Send indications and
// later ones as ChannelData, with 4 bytes of overhead. The allocation can live on a socket shared
// with other protocols ([Config].Send and [Allocation.Inbound]). [Probe] tests a server from
// outside; [MintCredential] makes the time-limited credentials that servers accept.
//
// It works with any TURN server over UDP; peers are reached over UDP in the allocation's one
// address family. Permissions and channels that carried nothing for 16 minutes are given up and
// come back with the next packet written. Nothing here encrypts: the relay sees what it relays.
package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"
)

// Allocation is a relayed address at a TURN server. Its methods may be called concurrently.
type Allocation struct {
	cfg     Config
	auth    credentials
	txs     transactions
	peers   peers
	relayed netip.AddrPort
	mapped  netip.AddrPort
	socket  net.PacketConn // own socket, or nil

	life   context.Context // ends with the allocation; for requests that no caller waits for
	cancel context.CancelFunc
	work   sync.WaitGroup // the goroutines that life ends

	mu       sync.Mutex // guards lifetime, err and closed
	lifetime time.Duration
	err      error
	closed   bool
	done     chan struct{}

	closing atomic.Bool   // Close has begun
	ended   chan struct{} // closed when Close has ended
}

// Allocate asks cfg.Server for a relayed address and waits for it. Errors: an [*Error] when the
// server refuses, [ErrTimeout] when it does not answer within ctx or about 20 seconds.
func Allocate(ctx context.Context, cfg Config) (*Allocation, error) {
	cfg.Server = netip.AddrPortFrom(cfg.Server.Addr().Unmap(), cfg.Server.Port())
	if !cfg.Server.IsValid() || cfg.Server.Port() == 0 {
		return nil, fmt.Errorf("allocating: %w: server %v", ErrPeer, cfg.Server)
	}
	a := &Allocation{cfg: cfg, done: make(chan struct{}), ended: make(chan struct{}), peers: newPeers()}
	a.auth.set(cfg.Username, cfg.Password)
	a.life, a.cancel = context.WithCancel(context.Background())
	a.txs = transactions{send: a.send, pending: make(map[[stun.TransactionIDSize]byte]*transaction)}
	if err := a.open(); err != nil {
		a.shut(err)
		return nil, err
	}
	if err := a.allocate(ctx); err != nil {
		a.shut(err)
		return nil, fmt.Errorf("allocating at %v: %w", cfg.Server, err)
	}
	a.work.Go(a.keep) // ends with life
	return a, nil
}

// open attaches to the caller's socket or opens an own one.
func (a *Allocation) open() error {
	if a.cfg.Send != nil {
		if a.cfg.Attach != nil {
			a.cfg.Attach(a.Inbound)
		}
		return nil
	}
	listen, network, address := a.cfg.ListenPacket, "udp4", "0.0.0.0:0"
	if a.cfg.Server.Addr().Is6() {
		network, address = "udp6", "[::]:0"
	}
	if listen == nil {
		listen = net.ListenPacket
	}
	socket, err := listen(network, address)
	if err != nil {
		return fmt.Errorf("opening a socket for the relay: %w", err)
	}
	a.socket = socket
	a.work.Go(a.read) // ends when shut closes the socket
	return nil
}

// allocate makes the Allocate request (RFC 8656 §7.1) and reads its answer.
func (a *Allocation) allocate(ctx context.Context) error {
	attrs := []stun.Setter{raw(stun.AttrRequestedTransport, protocolUDP, 0, 0, 0)}
	if family := a.cfg.family(); family == familyIPv6 { // absent means IPv4 (RFC 8656 §7.2)
		attrs = append(attrs, raw(stun.AttrRequestedAddressFamily, family, 0, 0, 0))
	}
	m, err := a.do(ctx, stun.MethodAllocate, attrs...)
	if err != nil {
		return err
	}
	relayed, okRelayed := readXORAddress(m, stun.AttrXORRelayedAddress)
	mapped, okMapped := readXORAddress(m, stun.AttrXORMappedAddress)
	lifetime, okLifetime := readLifetime(m)
	if !okRelayed || !okMapped || !okLifetime || relayed.Port() == 0 {
		return fmt.Errorf("%w: addresses or lifetime missing", ErrProtocol)
	}
	a.relayed, a.mapped = relayed, mapped
	a.setLifetime(lifetime)
	return nil
}

func readLifetime(m *stun.Message) (time.Duration, bool) {
	v, err := m.Get(stun.AttrLifetime)
	if err != nil || len(v) != 4 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(v)) * time.Second, true
}

func (a *Allocation) setLifetime(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lifetime = d
}

func (a *Allocation) getLifetime() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lifetime
}

// Relayed is the address at which peers reach this allocation.
func (a *Allocation) Relayed() netip.AddrPort { return a.relayed }

// Mapped is our own address as the server sees it: a server-reflexive address.
func (a *Allocation) Mapped() netip.AddrPort { return a.mapped }

// Server is the TURN server's address.
func (a *Allocation) Server() netip.AddrPort { return a.cfg.Server }

// Done is closed when the allocation is gone: closed, or lost at the server; then [Allocation.Err]
// says why.
func (a *Allocation) Done() <-chan struct{} { return a.done }

// Err is nil while the allocation lives, [net.ErrClosed] after Close, otherwise why it was lost.
func (a *Allocation) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// SetCredential replaces the credential for the refreshes to come. Our server accepts any
// credential of the same user; others may insist on the one that allocated (441).
func (a *Allocation) SetCredential(username, password string) { a.auth.set(username, password) }

// end records why the allocation ended; the first reason stays.
func (a *Allocation) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
		close(a.done)
	}
}

// lost ends the allocation because the server no longer has it.
func (a *Allocation) lost(err error) {
	a.end(fmt.Errorf("relay lost the allocation: %w", err))
	a.cancel()
	if log := a.cfg.Logger; log != nil && !errors.Is(err, context.Canceled) {
		log.Warn("relay allocation lost", "err", err)
	}
}

// shut ends everything that runs and waits for it.
func (a *Allocation) shut(err error) {
	a.end(err)
	a.cancel()
	if a.socket != nil {
		_ = a.socket.Close() // a socket that fails to close is closed all the same
	}
	a.work.Wait()
}

// closeWait bounds how long Close waits for the server to confirm.
const closeWait = 2 * initialRTO

// Close deletes the allocation at the server (a Refresh with lifetime 0), waits up to half a
// second for the confirmation and ends all that runs. It is idempotent; its error is always nil:
// where the server does not hear it, the allocation lapses there by itself.
func (a *Allocation) Close() error {
	if a.closing.Swap(true) {
		<-a.ended
		return nil
	}
	defer close(a.ended)
	if a.Err() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWait)
		_, _ = a.do(ctx, stun.MethodRefresh, raw(stun.AttrLifetime, 0, 0, 0, 0))
		cancel()
	}
	a.shut(net.ErrClosed)
	return nil
}
