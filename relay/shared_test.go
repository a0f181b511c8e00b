package relay_test

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/relay"
)

// TestSharedSocket: the allocation lives on a socket of the caller's, who keeps all other packets,
// even those from the server.
func TestSharedSocket(t *testing.T) {
	h := startServer(t, "127.0.0.1", nil)
	conn, peer := listen(t, "127.0.0.1"), listen(t, "127.0.0.1")
	defer peer.Close()
	var inbound func([]byte, netip.AddrPort) bool
	attached, others := make(chan struct{}), make(inbox, 16)
	in := make(inbox, 16)
	cfg := h.config("alice")
	cfg.Receive = in.receive
	cfg.Send = func(b []byte, to netip.AddrPort) error {
		_, err := conn.WriteToUDPAddrPort(b, to)
		return err
	}
	cfg.Attach = func(f func([]byte, netip.AddrPort) bool) { inbound = f; close(attached) }
	var reader sync.WaitGroup
	reader.Go(func() { // ends with conn
		b := make([]byte, 2000)
		<-attached
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if !inbound(b[:n], from) {
				others.receive(b[:n], from)
			}
		}
	})
	a := h.allocate(cfg)
	if a.Mapped() != addrOf(conn) {
		t.Errorf("mapped %v, want the shared socket's %v", a.Mapped(), addrOf(conn))
	}
	if err := a.Bind(testContext(t), addrOf(peer)); err != nil {
		t.Fatal(err)
	}
	_, _ = peer.WriteTo([]byte("relayed"), net.UDPAddrFromAddrPort(a.Relayed()))
	in.want(t, "relayed", addrOf(peer), "through the relay")
	_, _ = peer.WriteTo([]byte("direct"), conn.LocalAddr())
	others.want(t, "direct", addrOf(peer), "past the relay")

	for name, b := range map[string][]byte{
		"a QUIC packet":        append([]byte{0x41, 1, 0xff}, make([]byte, 40)...),
		"an unknown channel":   {0x4f, 0xff, 0, 1, 1},
		"another's STUN":       append([]byte{1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
		"a STUN request":       append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
		"nothing":              {},
		"a check of holepunch": {0x21, 1, 2, 3},
	} {
		if a.Inbound(b, h.addr) {
			t.Errorf("%s from the server's address was taken", name)
		}
	}
	if a.Inbound([]byte{0x40, 0, 0, 1, 1}, addrOf(peer)) {
		t.Error("channel data from somebody else was taken")
	}
	_ = a.Close()
	_ = a.Close()
	if _, err := a.WriteTo([]byte("x"), addrOf(peer)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteTo after Close: %v", err)
	}
	if err := a.Permit(testContext(t), addrOf(peer).Addr()); err == nil {
		t.Error("Permit after Close succeeded")
	}
	conn.Close()
	reader.Wait()
}

// TestErrors: what a client is told, by errors.Is.
func TestErrors(t *testing.T) {
	h := startServer(t, "127.0.0.1", nil)
	expired := h.config("alice")
	expired.Username, expired.Password = relay.MintCredential(secret, "alice", time.Now().Add(-time.Minute))
	if _, err := relay.Allocate(testContext(t), expired); !errors.Is(err, relay.ErrUnauthorized) {
		t.Errorf("expired: %v", err)
	}
	v6 := h.config("alice")
	v6.Family = 6
	_, err := relay.Allocate(testContext(t), v6)
	var refused *relay.Error
	if !errors.Is(err, relay.ErrFamily) || !errors.As(err, &refused) || refused.Code != 440 || refused.Method != "Allocate" {
		t.Errorf("family: %v", err)
	}
	for range 16 {
		h.allocate(h.config("bob"))
	}
	if _, err := relay.Allocate(testContext(t), h.config("bob")); !errors.Is(err, relay.ErrQuota) {
		t.Errorf("quota: %v", err)
	}
	if _, err := relay.Allocate(testContext(t), relay.Config{}); !errors.Is(err, relay.ErrPeer) {
		t.Errorf("no server: %v", err)
	}
}

func TestCredential(t *testing.T) {
	expires := time.Unix(1700000000, 0)
	username, password := relay.MintCredential([]byte("north"), "alice", expires)
	if username != "1700000000:alice" || password != relay.CredentialPassword([]byte("north"), username) || len(password) != 28 {
		t.Errorf("minted %q %q", username, password)
	}
	if at, user, err := relay.ParseUsername("1700000000:a:b"); err != nil || user != "a:b" || !at.Equal(expires) {
		t.Errorf("parsed %v %q %v", at, user, err)
	}
	for _, bad := range []string{"", ":", "1700000000", "1700000000:", ":alice", "x:alice", "-1:alice", "+1:alice", "1e9:alice", "99999999999999:alice"} {
		if _, _, err := relay.ParseUsername(bad); !errors.Is(err, relay.ErrUsername) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	h := startServer(t, "127.0.0.1", nil)
	a := h.allocate(h.config("alice"))
	peers := make([]*net.UDPConn, 8)
	var wg sync.WaitGroup
	for i := range peers {
		peers[i] = listen(t, "127.0.0.1")
		defer peers[i].Close()
		wg.Go(func() {
			for range 50 {
				_, _ = a.WriteTo([]byte("x"), addrOf(peers[i]))
				_, _ = a.WriteTo([]byte("x"), addrOf(peers[0]))
			}
			_ = a.Bind(testContext(t), addrOf(peers[i]))
			_ = a.Refresh(testContext(t))
		})
	}
	wg.Wait()
	for range 3 {
		wg.Go(func() { _ = a.Close() })
	}
	wg.Wait()
}
