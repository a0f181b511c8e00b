package peerconn_test

import (
	"context"
	"net"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/server"
)

// startNode runs a rendezvous node for the examples, as `sally serve` does, on
// this machine only.
func startNode() (url sallyport.NodeURL, stop func()) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	id, err := sallyport.NewIdentity()
	if err != nil {
		panic(err)
	}
	node, err := server.New(server.Config{Identity: id, Conns: []net.PacketConn{conn}})
	if err != nil {
		panic(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		node.Run(context.Background())
	}()
	url = sallyport.NodeURL{ID: id.PeerID(), Host: "127.0.0.1", Port: uint16(conn.LocalAddr().(*net.UDPAddr).Port)}
	return url, func() {
		node.Close()
		<-ended
		conn.Close()
	}
}
