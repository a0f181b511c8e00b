package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/internal/packet"
)

// MaxPayload is the largest payload WriteTo takes, in bytes: a UDP datagram less the headers of a
// Send indication with an IPv6 peer.
const MaxPayload = 65507 - 20 - 24 - 8

// buffers are for framing outgoing packets; Config.Send must not keep them.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// WriteTo sends b from the relayed address to peer. It does not wait for the server: see the
// package comment. The error is [ErrForbidden] once the server has refused the peer, [ErrPeer] for
// an address of the wrong family, [net.ErrClosed] after Close, the reason after a loss, or the
// socket's. A nil error says nothing about arrival.
func (a *Allocation) WriteTo(b []byte, peer netip.AddrPort) (int, error) {
	if peer.Addr().Is4In6() {
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	}
	c := a.peers.get(peer)
	if c == nil || bindState(c.state.Load()) != bound {
		return a.writeUnbound(b, peer)
	}
	if err := a.life.Err(); err != nil {
		return 0, a.Err()
	}
	c.touch()
	return a.frame(b, func(dst []byte) []byte { return packet.AppendChannelData(dst, c.number, b) })
}

// writeUnbound sends a Send indication, behind a ChannelBind request where none was sent yet.
func (a *Allocation) writeUnbound(b []byte, peer netip.AddrPort) (int, error) {
	if err := a.Err(); err != nil {
		return 0, err
	}
	c, err := a.bind(peer)
	if err != nil {
		return 0, err
	}
	c.touch()
	if bindState(c.state.Load()) == unbound && errors.Is(c.err, ErrForbidden) {
		return 0, c.err
	}
	var id [stun.TransactionIDSize]byte // of an indication: nobody answers it, so it need not be secret
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	return a.frame(b, func(dst []byte) []byte { return appendSend(dst, id, peer, b) })
}

// frame sends what appendTo makes of the payload b.
func (a *Allocation) frame(b []byte, appendTo func(dst []byte) []byte) (int, error) {
	if len(b) > MaxPayload {
		return 0, fmt.Errorf("%w: payload of %d bytes", ErrPeer, len(b))
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = appendTo((*buf)[:0])
	if err := a.send(*buf); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (a *Allocation) send(b []byte) error {
	if a.socket == nil {
		return a.cfg.Send(b, a.cfg.Server)
	}
	_, err := a.socket.WriteTo(b, net.UDPAddrFromAddrPort(a.cfg.Server))
	return err
}

// Inbound takes a datagram that arrived on the shared socket and reports whether it belonged to
// this allocation; if not, it may be somebody else's packet from the same server. A payload is
// handed to [Config].Receive before Inbound returns. b is not kept.
func (a *Allocation) Inbound(b []byte, from netip.AddrPort) bool {
	if from != a.cfg.Server && netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != a.cfg.Server {
		return false
	}
	switch packet.Classify(b) {
	case packet.ChannelData:
		return a.inboundChannel(b)
	case packet.STUN:
		return a.inboundSTUN(b)
	}
	return false
}

func (a *Allocation) inboundChannel(b []byte) bool {
	number, payload, err := packet.ParseChannelData(b)
	if err != nil {
		return false
	}
	c := a.peers.numbered(number)
	if c == nil {
		return false
	}
	c.touch()
	a.receive(payload, c.peer)
	return true
}

func (a *Allocation) inboundSTUN(b []byte) bool {
	var typ stun.MessageType
	typ.ReadValue(uint16(b[0])<<8 | uint16(b[1]))
	switch typ.Class {
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		return a.txs.deliver(b)
	case stun.ClassIndication:
		if typ.Method == stun.MethodData {
			a.inboundData(b)
			return true
		}
	}
	return false
}

// inboundData takes a Data indication (RFC 8656 §11.4). Those from addresses without permission
// "SHOULD be discarded" there too; the server guards that, and a forger of its address could
// forge the peer's just as well.
func (a *Allocation) inboundData(b []byte) {
	m, err := decode(b)
	if err != nil {
		return
	}
	peer, ok := readXORAddress(m, stun.AttrXORPeerAddress)
	payload, err := m.Get(stun.AttrData)
	if !ok || err != nil {
		return
	}
	if c := a.peers.get(peer); c != nil {
		c.touch()
	}
	a.peers.touch(peer.Addr())
	a.receive(payload, peer)
}

func (p *peers) touch(addr netip.Addr) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if permitted := p.permitted[addr]; permitted != nil {
		permitted.used.Store(true)
	}
}

func (a *Allocation) receive(b []byte, from netip.AddrPort) {
	if a.cfg.Receive != nil && a.life.Err() == nil {
		a.cfg.Receive(b, from)
	}
}

// maxReadErrors is how many reads in a row may fail before the own socket counts as dead. Single
// failures happen: an ICMP error reported on the socket, say.
const maxReadErrors = 16

// read feeds the own socket's packets to Inbound until it is closed.
func (a *Allocation) read() {
	b := make([]byte, 65536)
	for failed := 0; failed < maxReadErrors; {
		n, from, err := a.socket.ReadFrom(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			failed++
			continue
		}
		failed = 0
		if from, ok := from.(*net.UDPAddr); ok {
			a.Inbound(b[:n], from.AddrPort())
		}
	}
	a.lost(errors.New("its socket cannot be read any more"))
}

var errNoAnswer = fmt.Errorf("%w: nothing came through the relayed address", ErrTimeout)

// orTimeout names a deadline by what did not happen before it.
func orTimeout(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errNoAnswer
	}
	return ctx.Err()
}
