package server

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"github.com/sallyport-net/sallyport/relay"
)

var testSecret = []byte("a secret of the tests")

// waitTime bounds waits for what must come; nothing is measured by it.
const waitTime = 20 * time.Second

func loopback(t testing.TB, ip string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Skipf("skipped: no socket on %s here: %v", ip, err)
	}
	return c
}

// start runs a server on 127.0.0.1 with relayed addresses of both families; change adapts it.
func start(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{
		Conns:   []net.PacketConn{loopback(t, "127.0.0.1")},
		Relay:   []RelayAddr{{Listen: netip.MustParseAddr("127.0.0.1")}, {Listen: netip.IPv6Loopback()}},
		Secrets: func() [][]byte { return [][]byte{testSecret} },
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// raw is a TURN client that does what it is told, byte by byte.
type raw struct {
	t        testing.TB
	conn     *net.UDPConn
	server   net.Addr
	username string
	nonce    stun.Nonce
	realm    string
	key      stun.MessageIntegrity
}

func newRaw(t testing.TB, s *Server, username, password string) *raw {
	c := &raw{t: t, conn: loopback(t, "127.0.0.1"), server: s.listeners[0].LocalAddr(), username: username, realm: s.cfg.Realm}
	t.Cleanup(func() { _ = c.conn.Close() })
	c.key = stun.NewLongTermIntegrity(username, c.realm, password)
	return c
}

// newUser is a raw client with a good credential.
func newUser(t testing.TB, s *Server, user string) *raw {
	username, password := relay.MintCredential(testSecret, user, time.Now().Add(5*time.Minute))
	return newRaw(t, s, username, password)
}

func (c *raw) send(b []byte) {
	c.t.Helper()
	if _, err := c.conn.WriteTo(b, c.server); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *raw) receive(why string) []byte {
	c.t.Helper()
	b := make([]byte, 2000)
	_ = c.conn.SetReadDeadline(time.Now().Add(waitTime))
	n, err := c.conn.Read(b)
	if err != nil {
		c.t.Fatalf("%s: %v", why, err)
	}
	return b[:n]
}

func build(t testing.TB, setters ...stun.Setter) []byte {
	t.Helper()
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, setters...)...)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return m.Raw
}

func request1(method stun.Method) stun.MessageType { return stun.NewType(method, stun.ClassRequest) }

func attr(typ stun.AttrType, value ...byte) stun.Setter {
	return stun.RawAttribute{Type: typ, Value: value}
}

var transportUDP = attr(stun.AttrRequestedTransport, 17, 0, 0, 0)

func family(f byte) stun.Setter { return attr(stun.AttrRequestedAddressFamily, f, 0, 0, 0) }

// peerAt is an XOR-PEER-ADDRESS whose family is that of ip as it is: ::ffff:1.2.3.4 is IPv6.
type peerAt netip.AddrPort

func (p peerAt) AddTo(m *stun.Message) error {
	ip, port := netip.AddrPort(p).Addr().AsSlice(), netip.AddrPort(p).Port()
	mask := append([]byte{0x21, 0x12, 0xa4, 0x42}, m.TransactionID[:]...)
	value := []byte{0, 1, byte(port>>8) ^ 0x21, byte(port) ^ 0x12}
	if len(ip) == 16 {
		value[1] = 2
	}
	for i := range ip {
		value = append(value, ip[i]^mask[i])
	}
	m.Add(stun.AttrXORPeerAddress, value)
	return nil
}

// challenge gets a nonce by an Allocate without credentials.
func (c *raw) challenge() {
	c.t.Helper()
	c.send(build(c.t, request1(stun.MethodAllocate), transportUDP))
	m := new(stun.Message)
	if err := stun.Decode(c.receive("challenge"), m); err != nil {
		c.t.Fatalf("challenge: %v", err)
	}
	if err := c.nonce.GetFrom(m); err != nil {
		c.t.Fatalf("challenge: %v", err)
	}
}

// do sends an authenticated request and returns its code (0: success) and the response.
func (c *raw) do(method stun.Method, attrs ...stun.Setter) (int, *stun.Message) {
	c.t.Helper()
	if c.nonce == nil {
		c.challenge()
	}
	setters := append([]stun.Setter{request1(method)}, attrs...)
	c.send(build(c.t, append(setters, stun.NewUsername(c.username), stun.NewRealm(c.realm), c.nonce, c.key)...))
	m := new(stun.Message)
	if err := stun.Decode(c.receive(method.String()), m); err != nil {
		c.t.Fatalf("%v: %v", method, err)
	}
	if m.Type.Method != method {
		c.t.Fatalf("%v answered by %v", method, m.Type)
	}
	var code stun.ErrorCodeAttribute
	_ = code.GetFrom(m) // none: success
	return int(code.Code), m
}

// want does a request and checks its code.
func (c *raw) want(code int, why string, method stun.Method, attrs ...stun.Setter) {
	c.t.Helper()
	if got, _ := c.do(method, attrs...); got != code {
		c.t.Errorf("%s: %v gave %d, want %d", why, method, got, code)
	}
}

// wantSilence checks that b is not answered: the answer to a Binding request sent after it comes first.
func (c *raw) wantSilence(b []byte, why string) {
	c.t.Helper()
	marker := build(c.t, request1(stun.MethodBinding))
	c.send(b)
	c.send(marker)
	if got := c.receive(why); !bytes.Equal(got[8:20], marker[8:20]) {
		c.t.Errorf("%s: answered with %x", why, got)
	}
}
