package relay_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/relay"
)

// TestProbeOfALiar: a server that names somebody else's address as its relayed one does not get
// packets sent there.
func TestProbeOfALiar(t *testing.T) {
	server, victim := listen(t, "127.0.0.1"), listen(t, "127.0.0.2")
	defer victim.Close()
	served := make(chan struct{})
	go func() { // ends with server
		defer close(served)
		lie(server, addrOf(victim))
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := relay.Probe(ctx, relay.Config{Server: addrOf(server), Username: "user", Password: "password"})
	if !errors.Is(err, relay.ErrProtocol) {
		t.Errorf("Probe: %v, want %v", err, relay.ErrProtocol)
	}
	victim.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, from, err := victim.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("the victim got %d bytes from %v", n, from)
	}
	server.Close()
	<-served
}

// lie answers Allocate with relayed, and everything else with success.
func lie(server *net.UDPConn, relayed netip.AddrPort) {
	for b := make([]byte, 1500); ; {
		n, from, err := server.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		m := new(stun.Message)
		if stun.Decode(b[:n], m) != nil {
			continue
		}
		id := stun.NewTransactionIDSetter(m.TransactionID)
		if !m.Contains(stun.AttrMessageIntegrity) {
			challenge, _ := stun.Build(id, stun.NewType(m.Type.Method, stun.ClassErrorResponse), stun.CodeUnauthorized, stun.NewRealm("realm"), stun.NewNonce("nonce"))
			server.WriteToUDPAddrPort(challenge.Raw, from)
			continue
		}
		answer, _ := stun.Build(id, stun.NewType(m.Type.Method, stun.ClassSuccessResponse),
			xorAddress{stun.AttrXORRelayedAddress, relayed}, xorAddress{stun.AttrXORMappedAddress, from},
			stun.RawAttribute{Type: stun.AttrLifetime, Value: []byte{0, 0, 2, 88}},
			stun.NewLongTermIntegrity("user", "realm", "password"))
		server.WriteToUDPAddrPort(answer.Raw, from)
	}
}

type xorAddress struct {
	attr stun.AttrType
	addr netip.AddrPort
}

func (x xorAddress) AddTo(m *stun.Message) error {
	v := stun.XORMappedAddress{IP: x.addr.Addr().AsSlice(), Port: int(x.addr.Port())}
	return v.AddToAs(m, x.attr)
}
