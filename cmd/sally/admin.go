package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	relayserver "github.com/sallyport-net/sallyport/relay/server"
)

// admin serves a node's health and metrics over HTTP. A nil admin does nothing.
type admin struct {
	addr   netip.AddrPort
	server *http.Server
	listen net.Listener
	done   chan struct{} // closed when serving has ended; nil before it began
}

// openAdmin binds --admin. Where the default is taken, the node does without; where the user
// named an address, that is an error. Anything but loopback is told: it has no password.
func openAdmin(inv *invocation, n *node) (*admin, error) {
	text := inv.String("admin")
	if text == "" || text == "off" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", text)
	if err != nil {
		if !inv.IsSet("admin") {
			inv.note("sally: warning: no health and metrics on %s: %v (choose another --admin ADDR)", text, cause(err))
			return nil, nil
		}
		return nil, usagef("--admin %q: %w: use HOST:PORT, or off", text, cause(err))
	}
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	if !addr.Addr().Unmap().IsLoopback() {
		inv.note("sally: warning: --admin %s is not loopback: everybody who reaches it sees the metrics", addr)
	}
	a := &admin{addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), listen: listener}
	a.server = &http.Server{Handler: n.adminHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	return a, nil
}

func (a *admin) serve() {
	if a == nil {
		return
	}
	a.done = make(chan struct{})
	go func() { // ends with close
		defer close(a.done)
		a.server.Serve(a.listen)
	}()
}

func (a *admin) close() {
	if a == nil {
		return
	}
	a.server.Close()
	a.listen.Close()
	if a.done != nil {
		<-a.done
	}
}

func (n *node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		io.WriteString(w, n.metrics())
	})
	return mux
}

// ready says why the node does not serve yet.
func (n *node) ready() error {
	if n.rendezvous == nil {
		return errors.New("the node is starting")
	}
	return nil
}

// metrics is Prometheus' text format. No label names anybody.
func (n *node) metrics() string {
	var b strings.Builder
	write := func(kind, name, help string, value any) {
		fmt.Fprintf(&b, "# HELP sally_%[1]s %[2]s\n# TYPE sally_%[1]s %[3]s\nsally_%[1]s %[4]v\n", name, help, kind, value)
	}
	s := n.rendezvous.Stats()
	write("gauge", "connections", "QUIC connections of peers, handshakes included.", s.ConnectionsNow)
	write("gauge", "peers_callable", "Registered peers that may be called.", s.CallableNow)
	write("gauge", "volunteers", "Relays of volunteers that are listed.", s.VolunteersNow)
	write("counter", "calls_total", "Offers passed on.", s.Calls)
	write("counter", "calls_refused_total", "Calls refused by the callee.", s.Refused)
	write("counter", "calls_limited_total", "Calls beyond a limit.", s.Limited)
	write("counter", "connections_rejected_total", "Connections beyond a limit.", s.Rejected)
	write("counter", "stun_total", "STUN Binding requests answered.", s.STUN)
	write("counter", "stun_dropped_total", "STUN Binding requests beyond a limit.", s.STUNDropped)
	if n.relay != nil {
		relayMetrics(n.relay.Stats(), write)
	}
	return b.String()
}

func relayMetrics(s relayserver.Stats, write func(kind, name, help string, value any)) {
	write("gauge", "relay_allocations", "Living relay allocations.", s.Allocations)
	write("gauge", "relay_users", "Users that have an allocation.", s.Users)
	write("counter", "relay_allocations_total", "Allocations ever made.", s.Allocated)
	write("counter", "relay_refused_total", "Requests refused for a quota or a limit.", s.Refused)
	write("counter", "relay_unauthorized_total", "Requests with a wrong or expired credential.", s.Unauthorized)
	write("counter", "relay_denied_total", "Permissions and packets refused by the deny list.", s.Denied)
	write("counter", "relay_filtered_total", "Datagrams dropped as malformed.", s.Filtered)
	write("counter", "relay_unanswered_total", "Unauthenticated requests left without an answer.", s.Limited)
	write("counter", "relay_paced_total", "Payloads dropped because of the rate limit.", s.Paced)
	write("counter", "relay_packets_up_total", "Packets relayed from clients to peers.", s.PacketsUp)
	write("counter", "relay_bytes_up_total", "Bytes relayed from clients to peers.", s.BytesUp)
	write("counter", "relay_packets_down_total", "Packets relayed from peers to clients.", s.PacketsDown)
	write("counter", "relay_bytes_down_total", "Bytes relayed from peers to clients.", s.BytesDown)
}
