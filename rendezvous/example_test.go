package rendezvous_test

import (
	"context"
	"fmt"
	"net"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous"
	"github.com/sallyport-net/sallyport/rendezvous/server"
)

// A node and two peers in one program: alice calls bob, who answers.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	nodeKey, _ := sallyport.NewIdentity()
	aliceKey, _ := sallyport.NewIdentity()
	bobKey, _ := sallyport.NewIdentity()

	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	node, _ := server.New(server.Config{Identity: nodeKey, Conns: []net.PacketConn{conn}})
	go node.Run(ctx)
	url := sallyport.NodeURL{ID: nodeKey.PeerID(), Host: "127.0.0.1", Port: uint16(conn.LocalAddr().(*net.UDPAddr).Port)}

	bob, _ := rendezvous.New(rendezvous.Config{Identity: bobKey, Node: url, OnCall: func(call *rendezvous.Call) {
		defer call.Close()
		call.Send([]byte("hello, " + string(call.Offer())))
	}})
	go bob.Run(ctx)
	bob.Ready(ctx)

	alice, _ := rendezvous.New(rendezvous.Config{Identity: aliceKey, Node: url})
	go alice.Run(ctx)
	call, err := alice.Call(ctx, bobKey.PeerID(), []byte("alice"))
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := call.Receive(ctx)
	fmt.Println(string(answer), err)

	call.Close()
	alice.Close()
	bob.Close()
	node.Close()
	conn.Close()
	// Output: hello, alice <nil>
}
