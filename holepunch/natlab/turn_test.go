package natlab_test

import (
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// relayOn makes pion's relayed sockets on a host of the lab.
type relayOn struct{ host *natlab.Host }

var errUDPOnly = errors.New("UDP only")

func (r relayOn) Validate() error { return nil }

func (r relayOn) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	pc, err := r.host.ListenPacket("udp4", net.JoinHostPort(r.host.Addr().String(), strconv.Itoa(c.RequestedPort)))
	if err != nil {
		return nil, nil, err
	}
	return pc, pc.LocalAddr(), nil
}

func (r relayOn) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errUDPOnly
}

func (r relayOn) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errUDPOnly }

// TestTURN relays between two hosts behind symmetric NATs with pion's client and server.
func TestTURN(t *testing.T) {
	bubble(t, natlab.Config{}, func(t *testing.T, in *natlab.Internet, relay, _ *natlab.Host) {
		left, err := in.Site(natlab.SiteSymmetric, "left")
		if err != nil {
			t.Fatal(err)
		}
		right, err := in.Site(natlab.SiteSymmetric, "right")
		if err != nil {
			t.Fatal(err)
		}
		// Silent: at the end the server closes relayed sockets a second time and complains.
		silent := &logging.DefaultLoggerFactory{Writer: io.Discard}
		server, err := turn.NewServer(turn.ServerConfig{
			LoggerFactory: silent,
			Realm:         "lab",
			AuthHandler: func(ra *turn.RequestAttributes) (string, []byte, bool) {
				return ra.Username, turn.GenerateAuthKey(ra.Username, ra.Realm, "secret"), true
			},
			PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: listen(t, relay, ":3478"), RelayAddressGenerator: relayOn{relay}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		base := listen(t, left.Host, ":0")
		defer func() { _ = base.Close() }()
		client, err := turn.NewClient(&turn.ClientConfig{
			TURNServerAddr: net.JoinHostPort(relay.Addr().String(), "3478"), Conn: base,
			LoggerFactory: silent, Username: "u", Password: "secret", RequestedAddressFamily: turn.RequestedAddressFamilyIPv4,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err = client.Listen(); err != nil {
			t.Fatal(err)
		}
		relayed, err := client.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = relayed.Close() }()
		relayRoundTrip(t, relayed, listen(t, right.Host, ":0"), right)
	})
}

func relayRoundTrip(t *testing.T, relayed, peer net.PacketConn, right *natlab.Site) {
	t.Helper()
	permitted := &net.UDPAddr{IP: right.Home.External()[0].AsSlice(), Port: 1}
	if _, err := relayed.WriteTo([]byte("open"), permitted); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.WriteTo([]byte("question"), relayed.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := relayed.ReadFrom(b)
	if err != nil || string(b[:n]) != "question" {
		t.Fatalf("over the relay: %q, %v", b[:n], err)
	}
	if _, err = relayed.WriteTo([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	_ = peer.SetReadDeadline(time.Now().Add(time.Second))
	if n, _, err = peer.ReadFrom(b); err != nil || string(b[:n]) != "answer" {
		t.Fatalf("back: %q, %v", b[:n], err)
	}
}
