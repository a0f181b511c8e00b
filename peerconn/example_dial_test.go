package peerconn_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net/netip"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

// Two programs, here in one: bob waits for alice, whose ID he knows, and answers
// a line on a stream.
func ExampleHost_Dial() {
	node, stop := startNode() // in life: a `sally serve` somewhere, by its sally:// URL
	defer stop()
	ctx := context.Background()

	aliceKey, _ := sallyport.NewIdentity()
	bobKey, _ := sallyport.NewIdentity()

	bob, err := peerconn.NewHost(peerconn.Config{
		Identity: bobKey,
		Nodes:    []sallyport.NodeURL{node},
		Allow:    func(p sallyport.PeerID) bool { return p == aliceKey.PeerID() },
		Listen:   netip.MustParseAddrPort("127.0.0.1:0"), // in life: leave it out
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
		stream, err := link.AcceptStream(ctx)
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(stream).ReadString('\n')
		fmt.Fprintf(stream, "bob heard: %s", line)
		stream.Close()
	}()

	alice, err := peerconn.NewHost(peerconn.Config{
		Identity: aliceKey,
		Listen:   netip.MustParseAddrPort("127.0.0.1:0"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	link, err := alice.Dial(ctx, bob.Ticket()) // the ticket is a line of text: bob.Ticket().String()
	if err != nil {
		log.Fatal(err)
	}
	stream, err := link.OpenStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintln(stream, "hello")
	answer, _ := bufio.NewReader(stream).ReadString('\n')
	fmt.Print(answer)
	if err := link.WaitDirect(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the peer is bob:", link.Peer() == bobKey.PeerID())
	fmt.Println("the path is direct:", link.Path().Kind.Direct())
	// Output:
	// bob heard: hello
	// the peer is bob: true
	// the path is direct: true
}
