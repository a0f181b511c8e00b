package e2e

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// dialFrom opens QUIC connections from a socket of its own on h.
func dialFrom(t *testing.T, h *natlab.Host) func(context.Context, string, *tls.Config, *quic.Config) (*quic.Conn, error) {
	t.Helper()
	pc, err := h.ListenPacket("udp", ":0")
	check(t, err)
	tr := &quic.Transport{Conn: pc}
	t.Cleanup(func() {
		tr.Close()
		pc.Close()
	})
	return func(ctx context.Context, addr string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return tr.Dial(ctx, net.UDPAddrFromAddrPort(to), tc, qc)
	}
}

// rawClient is a rendezvous client of its own on a fresh public machine.
func (l *lab) rawClient(name string, change func(*rendezvous.Config)) *rendezvous.Client {
	l.t.Helper()
	cfg := rendezvous.Config{Identity: newIdentity(l.t), Node: l.node.url, DialContext: dialFrom(l.t, l.net.Host(name, natlab.HostConfig{}))}
	if change != nil {
		change(&cfg)
	}
	c, err := rendezvous.New(cfg)
	check(l.t, err)
	go c.Run(l.t.Context()) // ends with Close or the test
	l.t.Cleanup(func() { c.Close() })
	return c
}
