package server

import (
	"context"
	"net"
	"testing"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// BenchmarkCall is an offer of 3 KB and an answer of 3 KB through a node on the
// loopback: what the node and two clients cost, without a network's delay.
func BenchmarkCall(b *testing.B) {
	off := Rate{PerSecond: -1}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	node, err := New(Config{Identity: identity("node"), Conns: []net.PacketConn{conn}, Limits: Limits{
		CallsPerSender: off, CallsPerPair: off, CallsPerPrefix: off, CallsPerCallee: off, Messages: off}})
	if err != nil {
		b.Fatal(err)
	}
	defer node.Close()
	go node.Run(context.Background())
	addr, _ := addrPort(conn.LocalAddr())
	url := sallyport.NodeURL{ID: identity("node").PeerID(), Host: addr.Addr().String(), Port: addr.Port()}
	bulk := make([]byte, 3000)
	client := func(name string, onCall func(*rendezvous.Call)) *rendezvous.Client {
		c, err := rendezvous.New(rendezvous.Config{Identity: identity(name), Node: url, OnCall: onCall})
		if err != nil {
			b.Fatal(err)
		}
		go c.Run(context.Background())
		if _, err := c.Ready(b.Context()); err != nil {
			b.Fatal(err)
		}
		return c
	}
	bob := client("bob", func(call *rendezvous.Call) {
		call.Send(bulk)
		call.Receive(context.Background()) // until the caller closes
		call.Close()
	})
	defer bob.Close()
	alice := client("alice", nil)
	defer alice.Close()
	b.ReportAllocs()
	for b.Loop() {
		call, err := alice.Call(b.Context(), identity("bob").PeerID(), bulk)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := call.Receive(b.Context()); err != nil {
			b.Fatal(err)
		}
		call.Close()
	}
}
