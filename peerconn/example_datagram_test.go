package peerconn_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

// Datagrams arrive at once or not at all, so what matters is sent again.
func ExampleLink_SendDatagram() {
	node, stop := startNode()
	defer stop()
	ctx := context.Background()
	anywhere := netip.MustParseAddrPort("127.0.0.1:0")
	aliceKey, _ := sallyport.NewIdentity()
	bobKey, _ := sallyport.NewIdentity()

	bob, err := peerconn.NewHost(peerconn.Config{
		Identity: bobKey,
		Nodes:    []sallyport.NodeURL{node},
		Allow:    func(p sallyport.PeerID) bool { return p == aliceKey.PeerID() },
		Listen:   anywhere,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()
	if err := bob.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	go func() {
		link, err := bob.Accept(ctx)
		if err != nil {
			return
		}
		for {
			ping, err := link.ReceiveDatagram(ctx)
			if err != nil {
				return // the link has ended
			}
			link.SendDatagram(append([]byte("echo of "), ping...))
		}
	}()

	alice, err := peerconn.NewHost(peerconn.Config{Identity: aliceKey, Listen: anywhere})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	link, err := alice.Dial(ctx, bob.Ticket())
	if err != nil {
		log.Fatal(err)
	}
	for {
		if err := link.SendDatagram([]byte("ping")); err != nil {
			log.Fatal(err)
		}
		patience, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		echo, err := link.ReceiveDatagram(patience)
		cancel()
		if err == nil {
			fmt.Printf("%s\n", echo)
			break
		}
		if link.Context().Err() != nil {
			log.Fatal(err)
		}
	}
	// Output: echo of ping
}
