package server

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
)

// stunNode runs a node on two ports of each of the addresses, on the loopback.
func stunNode(t *testing.T, ips ...string) (first netip.AddrPort) {
	t.Helper()
	for range 20 { // the ports must be free on every address
		if conns, ok := listenSquare(ips); ok {
			w := &world{t: t}
			w.startOn(Config{}, conns)
			first, _ = addrPort(conns[0].LocalAddr())
			return first
		}
	}
	t.Fatal("no two ports are free on every address")
	return first
}

func listenSquare(ips []string) (conns []net.PacketConn, ok bool) {
	var ports [2]string
	for i := range ports {
		for _, ip := range ips {
			port := ports[i]
			if port == "" {
				port = "0"
			}
			conn, err := net.ListenPacket("udp", net.JoinHostPort(ip, port))
			if err != nil {
				for _, c := range conns {
					c.Close()
				}
				return nil, false
			}
			conns = append(conns, conn)
			_, ports[i], _ = net.SplitHostPort(conn.LocalAddr().String())
		}
	}
	return conns, true
}

// ask sends a request and returns the answer and where it came from.
func ask(t *testing.T, to netip.AddrPort, setters ...stun.Setter) (*stun.Message, netip.AddrPort, netip.AddrPort) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local, _ := addrPort(conn.LocalAddr())
	request := stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, setters...)...)
	conn.WriteTo(request.Raw, net.UDPAddrFromAddrPort(to))
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1500)
	n, from, err := conn.ReadFrom(b)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if n > stunAmplification*len(request.Raw) {
		t.Errorf("%d bytes answer %d", n, len(request.Raw))
	}
	answer := &stun.Message{Raw: b[:n]}
	if err := answer.Decode(); err != nil || answer.TransactionID != request.TransactionID {
		t.Fatalf("answer %x: %v", b[:n], err)
	}
	source, _ := addrPort(from)
	return answer, source, local
}

func wantMapped(t *testing.T, m *stun.Message, want netip.AddrPort) {
	t.Helper()
	var mapped stun.XORMappedAddress
	if err := mapped.GetFrom(m); err != nil || mapped.String() != want.String() {
		t.Errorf("mapped address %v, %v, want %v", mapped, err, want)
	}
}

func wantError(t *testing.T, m *stun.Message, want stun.ErrorCode) {
	t.Helper()
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil || code.Code != want || m.Type != stun.BindingError {
		t.Errorf("%v, want error %d", m, want)
	}
}

func changeRequest(flags byte) stun.RawAttribute {
	return stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, flags}}
}

func TestBinding(t *testing.T) {
	node := stunNode(t, "127.0.0.1")
	m, from, local := ask(t, node)
	wantMapped(t, m, local)
	if from != node || m.Contains(stun.AttrSoftware) || m.Contains(stun.AttrFingerprint) {
		t.Errorf("answer from %v: %v", from, m)
	}
	m, _, local = ask(t, node, stun.NewUsername("ice"), stun.Fingerprint)
	wantMapped(t, m, local)
	if err := stun.Fingerprint.Check(m); err != nil {
		t.Errorf("asked for a fingerprint: %v", err)
	}
}

// "If the server ... does not have an alternate address and port", it has to
// answer CHANGE-REQUEST with 420 and to leave OTHER-ADDRESS out (RFC 5780 section 6.1).
func TestOneAddressHasNoOther(t *testing.T) {
	node := stunNode(t, "127.0.0.1")
	m, _, _ := ask(t, node)
	if m.Contains(stun.AttrOtherAddress) || m.Contains(stun.AttrResponseOrigin) {
		t.Errorf("%v", m)
	}
	for _, attr := range []stun.RawAttribute{changeRequest(stunChangeIP), changeRequest(0),
		{Type: stun.AttrResponsePort, Value: []byte{0x40, 0, 0, 0}}, {Type: 0x7777, Value: []byte{1, 2, 3, 4}}} {
		m, _, _ := ask(t, node, attr)
		wantError(t, m, stun.CodeUnknownAttribute)
		var unknown stun.UnknownAttributes
		if err := unknown.GetFrom(m); err != nil || len(unknown) != 1 || unknown[0] != attr.Type {
			t.Errorf("unknown attributes %v, %v, want %v", unknown, err, attr.Type)
		}
	}
}

func TestFourAddresses(t *testing.T) {
	node := stunNode(t, "127.0.0.1", "127.0.0.2")
	m, _, _ := ask(t, node)
	var other stun.OtherAddress
	if err := other.GetFrom(m); err != nil {
		t.Fatal(err)
	}
	both := netip.MustParseAddrPort(other.String())
	if both.Addr() != netip.MustParseAddr("127.0.0.2") || both.Port() == node.Port() {
		t.Errorf("other address %v of %v", both, node)
	}
	for flags, want := range map[byte]netip.AddrPort{
		0:                             node,
		stunChangeIP:                  netip.AddrPortFrom(both.Addr(), node.Port()),
		stunChangePort:                netip.AddrPortFrom(node.Addr(), both.Port()),
		stunChangeIP | stunChangePort: both,
	} {
		m, from, local := ask(t, node, changeRequest(flags))
		wantMapped(t, m, local)
		var origin stun.ResponseOrigin
		if err := origin.GetFrom(m); err != nil || origin.String() != want.String() || from != want {
			t.Errorf("flags %d: from %v, origin %v, %v, want %v", flags, from, origin, err, want)
		}
	}
	m, _, _ = ask(t, node, stun.RawAttribute{Type: stun.AttrResponsePort, Value: []byte{0, 80, 0, 0}})
	wantError(t, m, stun.CodeBadRequest)
}

func TestResponsePort(t *testing.T) {
	node := stunNode(t, "127.0.0.1", "127.0.0.2")
	conn := listenLoopback(t)
	defer conn.Close()
	here, _ := addrPort(conn.LocalAddr())
	asker := listenLoopback(t)
	defer asker.Close()
	port := []byte{byte(here.Port() >> 8), byte(here.Port()), 0, 0}
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrResponsePort, Value: port})
	asker.WriteTo(request.Raw, net.UDPAddrFromAddrPort(node))
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1500)
	n, _, err := conn.ReadFrom(b)
	m := &stun.Message{Raw: b[:n]}
	if err != nil || m.Decode() != nil {
		t.Fatalf("%v %x", err, b[:n])
	}
	local, _ := addrPort(asker.LocalAddr())
	wantMapped(t, m, local)
}

// "bytes out/in of every unauthenticated request ≤ 3.0", IPv6 included, where
// every address has 24 bytes: what may be left out is.
func TestAmplification(t *testing.T) {
	wide := func(ip string, port uint16) *socket {
		return &socket{public: netip.AddrPortFrom(netip.MustParseAddr(ip), port)}
	}
	s := &Server{sockets: []*socket{wide("2001:db8::1", 3478), wide("2001:db8::1", 3479), wide("2001:db8::2", 3478), wide("2001:db8::2", 3479)}}
	server := newSTUNServer(s)
	from := netip.MustParseAddrPort("[2001:db8::77]:1234")
	for _, extra := range [][]stun.Setter{nil, {stun.Fingerprint}, {changeRequest(stunChangeIP)}, {changeRequest(9), changeRequest(1)},
		{stun.NewSoftware("twelve bytes")}, {stun.RawAttribute{Type: 0x7001}, stun.RawAttribute{Type: 0x7002}}} {
		request := stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.BindingRequest}, extra...)...)
		if err := request.Decode(); err != nil {
			t.Fatal(err)
		}
		m, _, _ := server.answer(request, from, s.sockets[0])
		if len(m.Raw) > stunAmplification*len(request.Raw) {
			t.Errorf("%v: %d bytes answer %d", extra, len(m.Raw), len(request.Raw))
		}
		if err := (&stun.Message{Raw: m.Raw}).Decode(); err != nil {
			t.Errorf("%v: answer does not parse: %v", extra, err)
		}
		if len(request.Raw) >= 36 && m.Type == stun.BindingSuccess && !m.Contains(stun.AttrOtherAddress) {
			t.Errorf("%v: a padded request gets no OTHER-ADDRESS", extra)
		}
	}
}

func TestSTUNIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Limits: Limits{STUNPrefix: Rate{PerSecond: 1, Burst: 3}}})
		ask := func(conn *memoryConn) int {
			for range 20 {
				conn.WriteTo(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw, net.UDPAddrFromAddrPort(w.addr))
			}
			time.Sleep(100 * time.Millisecond)
			n := len(conn.queue)
			for range n {
				<-conn.queue
			}
			return n
		}
		conn := w.net.listen(netip.MustParseAddrPort("203.0.113.9:1"))
		if n := ask(conn); n != 3 {
			t.Errorf("%d answers at once, want 3", n)
		}
		if n := ask(w.net.listen(netip.MustParseAddrPort("203.0.113.10:1"))); n != 0 {
			t.Errorf("%d answers to a neighbour, want 0: they count together", n)
		}
		if n := ask(w.net.listen(netip.MustParseAddrPort("192.0.2.200:1"))); n != 3 {
			t.Errorf("%d answers to another network, want 3", n)
		}
		time.Sleep(2 * time.Second)
		if n := ask(conn); n != 2 {
			t.Errorf("%d answers after 2 s, want 2", n)
		}
		if st := w.node.Stats(); st.STUN != 8 || st.STUNDropped != 72 {
			t.Errorf("%+v", st)
		}
	})
}

// tool runs one of coturn's clients, whose output counts and not its exit code.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: it comes with Debian's coturn package", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

func TestCoturnSTUNClient(t *testing.T) {
	node := stunNode(t, "127.0.0.1")
	out := tool(t, "turnutils_stunclient", "-p", strconv.Itoa(int(node.Port())), node.Addr().String())
	if !strings.Contains(out, "UDP reflexive addr: 127.0.0.1:") {
		t.Errorf("%s", out)
	}
}

func TestCoturnNATDiscovery(t *testing.T) {
	node := stunNode(t, "127.0.0.1", "127.0.0.2")
	out := tool(t, "turnutils_natdiscovery", "-m", "-f", "-p", strconv.Itoa(int(node.Port())), node.Addr().String())
	for _, want := range []string{"NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!", "Other addr: : 127.0.0.2:"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
