package relay_test

import (
	"net"
	"testing"
)

// BenchmarkRelay is one 1,200-byte payload through the relay, over a channel, and its echo back:
// four system calls to send and four to receive, in one process.
func BenchmarkRelay(b *testing.B) {
	h := startServer(b, "127.0.0.1", nil)
	peer := listen(b, "127.0.0.1")
	defer peer.Close()
	in := make(inbox, 16)
	cfg := h.config("alice")
	cfg.Receive = in.receive
	a := h.allocate(cfg)
	if err := a.Bind(testContext(b), addrOf(peer)); err != nil {
		b.Fatal(err)
	}
	payload, buf := make([]byte, 1200), make([]byte, 2000)
	back := net.UDPAddrFromAddrPort(a.Relayed())
	b.SetBytes(2 * 1200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.WriteTo(payload, addrOf(peer)); err != nil {
			b.Fatal(err)
		}
		n, _, err := peer.ReadFromUDPAddrPort(buf)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := peer.WriteTo(buf[:n], back); err != nil {
			b.Fatal(err)
		}
		<-in
	}
}
