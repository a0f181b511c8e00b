package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// stagger is the head start of an address over the next one; 250 ms is the
// "Connection Attempt Delay" of RFC 8305 section 8.
const stagger = 250 * time.Millisecond

// ownSocket dials nodes from a UDP socket of its own, made at the first use.
type ownSocket struct {
	mu        sync.Mutex // guards what follows
	conn      net.PacketConn
	transport *quic.Transport
}

func (o *ownSocket) get() (*quic.Transport, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.transport == nil {
		conn, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return nil, err
		}
		o.conn, o.transport = conn, &quic.Transport{Conn: conn, ConnectionIDLength: 8}
	}
	return o.transport, nil
}

// close frees the socket; the next dial makes another.
func (o *ownSocket) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.transport != nil {
		o.transport.Close()
		o.conn.Close()
		o.conn, o.transport = nil, nil
	}
}

// dial resolves addr and tries what it gets, IPv6 and IPv4 by turns, each a
// little after the one before; the first that completes the handshake wins.
func (o *ownSocket) dial(ctx context.Context, addr string, tlsConf *tls.Config, conf *quic.Config) (*quic.Conn, error) {
	transport, err := o.get()
	if err != nil {
		return nil, fmt.Errorf("opening a UDP socket: %w", err)
	}
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn, err := race(ctx, addrs, func(ctx context.Context, to netip.AddrPort) (*quic.Conn, error) {
		return transport.Dial(ctx, net.UDPAddrFromAddrPort(to), tlsConf, conf)
	})
	if errors.Is(err, quic.ErrTransportClosed) {
		o.close()
	}
	return conn, err
}

const maxDialAddrs = 6

func resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("node's address: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("node's port: %w", err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", host, err)
	}
	var byFamily [2][]netip.AddrPort
	for _, ip := range ips {
		family := 0
		if ip.Unmap().Is4() {
			family = 1
		}
		byFamily[family] = append(byFamily[family], netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	var out []netip.AddrPort
	for i := range ips {
		for _, list := range byFamily {
			if i < len(list) && len(out) < maxDialAddrs {
				out = append(out, list[i])
			}
		}
	}
	return out, nil
}

type dialFunc func(context.Context, netip.AddrPort) (*quic.Conn, error)

type attempt struct {
	conn *quic.Conn
	err  error
}

// race returns the first connection, or every error, once all have ended.
func race(ctx context.Context, addrs []netip.AddrPort, dial dialFunc) (*quic.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt)
	for i, to := range addrs {
		go func() { // ends with ctx; its result is always received below
			if !sleep(ctx, time.Duration(i)*stagger) {
				results <- attempt{err: ctx.Err()}
				return
			}
			conn, err := dial(ctx, to)
			results <- attempt{conn, err}
		}()
	}
	var winner *quic.Conn
	var failures []error
	for range addrs {
		a := <-results
		switch {
		case a.conn != nil && winner == nil:
			winner = a.conn
			cancel()
		case a.conn != nil:
			a.conn.CloseWithError(0, "")
		default:
			failures = append(failures, a.err)
		}
	}
	cancel()
	if winner != nil {
		return winner, nil
	}
	return nil, errors.Join(failures...)
}
