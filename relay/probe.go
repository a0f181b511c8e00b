package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// probeEvery is the pause between two tries of [Probe]'s packet.
const probeEvery = 100 * time.Millisecond

// Probe tests a TURN server from outside: it allocates from a fresh socket, sends a packet of its
// own to the relayed address from another fresh socket, waits until that comes back through the
// allocation, and deletes it. Nil proves that the credential is right and that strangers reach
// both the server's port and its relayed ports. The relayed address must be of the server's IP
// address: nothing is sent to any other, whatever the server says. It uses Server, Username, Password, Family,
// ListenPacket and Logger of cfg. Only permission is asked for; nothing is sent through the
// relay first that could open a NAT in front of it.
//
// Errors: an [*Error] when the server refuses, [ErrTimeout] when it does not answer or nothing
// came through before ctx ended (a deadline is the caller's; 5 seconds is ample).
func Probe(ctx context.Context, cfg Config) error {
	token := make([]byte, 16)
	rand.Read(token) // never fails, see crypto/rand
	heard := make(chan struct{}, 1)
	cfg.Send, cfg.Attach = nil, nil
	cfg.Receive = func(b []byte, _ netip.AddrPort) {
		if string(b) == string(token) {
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	}
	a, err := Allocate(ctx, cfg)
	if err != nil {
		return err
	}
	defer a.Close()
	switch {
	case a.relayed.Addr().Is4() != a.mapped.Addr().Is4():
		return fmt.Errorf("probing: %w: relayed and own address differ in family", ErrFamily)
	case a.relayed.Addr() != cfg.Server.Addr().Unmap(): // a liar would have us knock at somebody else's
		return fmt.Errorf("probing: %w: relayed address is not the server's", ErrProtocol)
	}
	if err := a.Permit(ctx, a.mapped.Addr()); err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	return a.knock(ctx, token, heard)
}

// knock sends token to the relayed address until it was heard.
func (a *Allocation) knock(ctx context.Context, token []byte, heard <-chan struct{}) error {
	outside, err := a.outside()
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	defer outside.Close()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		if _, err := outside.WriteTo(token, net.UDPAddrFromAddrPort(a.relayed)); err != nil && errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("probing: %w", err)
		}
		select {
		case <-heard:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("probing: %w", orTimeout(ctx))
		case <-a.done:
			return fmt.Errorf("probing: %w", a.Err())
		case <-tick.C:
		}
	}
}

// outside opens a second socket of the relayed address's family.
func (a *Allocation) outside() (net.PacketConn, error) {
	listen := a.cfg.ListenPacket
	if listen == nil {
		listen = net.ListenPacket
	}
	if a.relayed.Addr().Is4() {
		return listen("udp4", "0.0.0.0:0")
	}
	return listen("udp6", "[::]:0")
}
