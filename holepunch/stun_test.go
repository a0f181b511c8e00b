package holepunch

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The sample responses of RFC 5769 sections 2.2 and 2.3.
const (
	rfc5769IPv4 = `0101003c 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220 00200008 0001a147e112a643
		00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96`
	rfc5769IPv6 = `01010048 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220 00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
		00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c`
)

func TestBindingResponseVectors(t *testing.T) {
	for s, want := range map[string]string{
		rfc5769IPv4: "192.0.2.1:32853",
		rfc5769IPv6: "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
	} {
		b := unhex(t, s)
		r, err := ParseBindingResponse(b)
		if err != nil || r.Mapped.String() != want || hex.EncodeToString(r.ID[:]) != "b7e7a701bc34d686fa87dfae" {
			t.Errorf("parsed %+v, %v, want %s", r, err, want)
		}
		for i := range b {
			if _, err := ParseBindingResponse(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("cut to %d bytes: %v", i, err)
			}
		}
		for i := stunHeader; i < len(b); i++ {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if _, err := ParseBindingResponse(bad); !errors.Is(err, ErrMalformed) {
				t.Errorf("byte %d changed under the fingerprint: %v", i, err)
			}
		}
	}
}

func TestBindingRequest(t *testing.T) {
	id := TransactionID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, tt := range []struct {
		change Change
		want   string
	}{
		{0, "00010000 2112a442 0102030405060708090a0b0c"},
		{ChangeIP | ChangePort, "00010008 2112a442 0102030405060708090a0b0c 00030004 00000006"},
	} {
		got := AppendBindingRequest(nil, id, tt.change)
		if !bytes.Equal(got, unhex(t, tt.want)) {
			t.Errorf("change %d: %x", tt.change, got)
		}
		m := &stun.Message{Raw: got}
		if err := m.Decode(); err != nil || m.Type != stun.BindingRequest || m.TransactionID != id {
			t.Errorf("pion/stun reads %v, %v", m, err)
		}
	}
}

// stunMessage frames attributes.
func stunMessage(typ uint16, attrs string, t testing.TB) []byte {
	body := unhex(t, attrs)
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unhex(t, "2112a442 0102030405060708090a0b0c")...)
	return append(b, body...)
}

func TestBindingResponse(t *testing.T) {
	const (
		xor   = "00200008 0001 8f80 e112a643" // 192.0.2.1:44690
		plain = "00010008 0001 1388 c6336401" // 198.51.100.1:5000
	)
	for _, tt := range []struct {
		name, attrs string
		typ         uint16
		want        string // mapped, or "" for malformed
	}{
		{"xor-mapped", xor, stunSuccess, "192.0.2.1:44690"},
		{"mapped only", plain, stunSuccess, "198.51.100.1:5000"},
		{"both, xor first", xor + plain, stunSuccess, "192.0.2.1:44690"},
		{"both, xor last", plain + xor, stunSuccess, "192.0.2.1:44690"},
		{"unknown optional attribute", xor + "c0010003 01020300", stunSuccess, "192.0.2.1:44690"},
		{"unknown required attribute", xor + "7f010000", stunSuccess, ""},
		{"no address", "", stunSuccess, ""},
		{"request", xor, stunRequest, ""},
		{"indication", xor, 0x0011, ""},
		{"another method", xor, 0x0103, ""},
		{"error without code", "", stunFailure, ""},
		{"success with code", xor + "00090004 00000414", stunSuccess, ""},
		{"code 200", "00090004 00000200", stunFailure, ""},
		{"code 400 and 100", "00090004 00000464", stunFailure, ""},
		{"short code", "00090003 00000400", stunFailure, ""},
		{"address of 7 bytes", "00200007 00018f80e112a600", stunSuccess, ""},
		{"family 3", "00200008 00038f80e112a643", stunSuccess, ""},
		{"IPv6 in 8 bytes", "00200008 00028f80e112a643", stunSuccess, ""},
		{"IPv4 in 20 bytes", "00200014 00018f80e112a643000000000000000000000000", stunSuccess, ""},
		{"attribute past the end", "00200018 00018f80e112a643", stunSuccess, ""},
		{"fingerprint in the middle", "80280004 00000000" + xor, stunSuccess, ""},
		{"address behind integrity", "00080014" + strings.Repeat("00", 20) + xor, stunSuccess, ""},
	} {
		r, err := ParseBindingResponse(stunMessage(tt.typ, tt.attrs, t))
		switch {
		case tt.want == "" && !errors.Is(err, ErrMalformed):
			t.Errorf("%s: %+v, %v", tt.name, r, err)
		case tt.want != "" && (err != nil || r.Mapped.String() != tt.want):
			t.Errorf("%s: %v, %v, want %s", tt.name, r.Mapped, err, tt.want)
		}
	}
	r, err := ParseBindingResponse(stunMessage(stunSuccess, xor+"802b0008 00010d96c6336401 802c0008 00010d97cb007101", t))
	if err != nil || r.Origin.String() != "198.51.100.1:3478" || r.Other.String() != "203.0.113.1:3479" {
		t.Errorf("origin and other address: %+v, %v", r, err)
	}
	r, err = ParseBindingResponse(stunMessage(stunFailure, "00090009 00000414 756e6b6e6f000000 000a0002 00030000", t))
	if err != nil || r.Code != 420 || r.Reason != "unkno" {
		t.Errorf("error response: %+v, %v", r, err)
	}
}

// What pion builds we read alike.
func TestBindingResponseFromPion(t *testing.T) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingSuccess, stun.NewSoftware("x"),
		&stun.XORMappedAddress{IP: []byte{192, 0, 2, 1}, Port: 4000}, stun.Fingerprint)
	r, err := ParseBindingResponse(m.Raw)
	if err != nil || r.Mapped.String() != "192.0.2.1:4000" || r.ID != m.TransactionID {
		t.Errorf("%+v, %v", r, err)
	}
}

// testServer answers STUN requests over an imagined network of 20 ms each way.
type testServer struct {
	client   *STUNClient
	requests []time.Duration
	began    time.Time
	lose     int // of the first requests
	answer   func(id TransactionID) []byte
}

var testServerAddr = netip.MustParseAddrPort("192.0.2.53:3478")

func (s *testServer) send(b []byte, to netip.AddrPort) error {
	s.requests = append(s.requests, time.Since(s.began))
	if len(s.requests) <= s.lose || to != testServerAddr {
		return nil
	}
	id := TransactionID(b[8:20])
	time.AfterFunc(40*ms, func() { s.client.Inbound(s.answer(id), testServerAddr) })
	return nil
}

func bindingSuccess(id TransactionID) []byte {
	return stun.MustBuild(stun.NewTransactionIDSetter(id), stun.BindingSuccess, &stun.XORMappedAddress{IP: []byte{198, 51, 100, 1}, Port: 4000}, stun.Fingerprint).Raw
}

func newTestServer(lose int) *testServer {
	return &testServer{client: &STUNClient{}, began: time.Now(), lose: lose, answer: bindingSuccess}
}

func TestSTUNClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(0)
		b, err := s.client.Do(t.Context(), s.send, testServerAddr)
		if err != nil || b.Mapped.String() != "198.51.100.1:4000" || b.RTT != 40*ms || b.From != testServerAddr {
			t.Errorf("%+v, %v", b, err)
		}
		if len(s.client.waiting) != 0 {
			t.Errorf("%d transactions are left", len(s.client.waiting))
		}
	})
}

// "For example, assuming an RTO of 500 ms, requests would be sent at times 0 ms,
// 500 ms, 1500 ms, 3500 ms, 7500 ms, 15500 ms, and 31500 ms. If the client has not received a
// response after 39500 ms, the client will consider the transaction to have timed out." RFC 8489 section 6.2.1.
func TestSTUNRetransmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(100)
		_, err := s.client.Do(t.Context(), s.send, testServerAddr)
		if !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "192.0.2.53:3478, 7 requests in 39.5 s") {
			t.Errorf("error %v", err)
		}
		want := []time.Duration{0, 500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 15500 * ms, 31500 * ms}
		if len(s.requests) != len(want) {
			t.Fatalf("%d requests", len(s.requests))
		}
		for i := range want {
			if s.requests[i] != want[i] {
				t.Errorf("request %d at %v, want %v", i, s.requests[i], want[i])
			}
		}
	})
}

func TestSTUNLostRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(2)
		s.client.RTO = 100 * ms
		if b, err := s.client.Do(t.Context(), s.send, testServerAddr); err != nil || b.RTT != 340*ms {
			t.Errorf("%+v, %v", b, err)
		}
	})
}

func TestSTUNCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(100)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.client.Do(ctx, s.send, testServerAddr); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "192.0.2.53:3478") {
			t.Errorf("error %v", err)
		}
		refused := errors.New("no route")
		if _, err := s.client.Do(t.Context(), func([]byte, netip.AddrPort) error { return refused }, testServerAddr); !errors.Is(err, refused) {
			t.Errorf("error %v", err)
		}
		if len(s.client.waiting) != 0 {
			t.Errorf("%d transactions are left", len(s.client.waiting))
		}
	})
}

func TestSTUNErrorResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer(0)
		s.answer = func(id TransactionID) []byte {
			return stun.MustBuild(stun.NewTransactionIDSetter(id), stun.BindingError, stun.ErrorCodeAttribute{Code: 420, Reason: []byte("Unknown Attribute")}).Raw
		}
		_, err := s.client.DoChange(t.Context(), s.send, testServerAddr, ChangePort)
		var se *STUNError
		if !errors.As(err, &se) || se.Code != 420 || se.Server != testServerAddr {
			t.Errorf("error %v", err)
		}
	})
}

// Only the answer to one of our own requests is consumed, once.
func TestSTUNInbound(t *testing.T) {
	var c STUNClient
	id := TransactionID{1}
	if c.Inbound(bindingSuccess(id), testServerAddr) {
		t.Error("an answer that nobody asked for was taken")
	}
	answer := c.expect(id)
	if c.Inbound(bindingSuccess(TransactionID{2}), testServerAddr) {
		t.Error("another transaction's answer was taken")
	}
	if c.Inbound(AppendBindingRequest(nil, id, 0), testServerAddr) {
		t.Error("a request was taken")
	}
	if !c.Inbound(bindingSuccess(id), netip.MustParseAddrPort("[::ffff:192.0.2.54]:3479")) {
		t.Error("the answer was not taken")
	}
	if b := <-answer; b.From.String() != "192.0.2.54:3479" {
		t.Errorf("from %v", b.From)
	}
	if c.Inbound(bindingSuccess(id), testServerAddr) {
		t.Error("the answer was taken twice")
	}
}

// Whatever parses is complete, and pion reads the same address out of it.
func FuzzBindingResponse(f *testing.F) {
	f.Add(unhex(f, rfc5769IPv4))
	f.Add(unhex(f, rfc5769IPv6))
	f.Add(stunMessage(stunFailure, "00090009 00000414 756e6b6e6f000000 000a0002 00030000", f))
	f.Add(stunMessage(stunSuccess, "00010008 0001 1388 c6336401", f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseBindingResponse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if r.Code == 0 && !r.Mapped.IsValid() {
			t.Fatalf("neither address nor error: %+v", r)
		}
		m := &stun.Message{Raw: bytes.Clone(b)}
		if err := m.Decode(); err != nil {
			t.Fatalf("pion does not read it: %v", err)
		}
	})
}
