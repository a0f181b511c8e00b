package natlab_test

import (
	"fmt"
	"log"
	"net"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// A host behind a home router asks a public host how it looks from there.
func Example() {
	in := natlab.New(natlab.Config{Seed: 1})
	defer func() { _ = in.Close() }()
	node := in.Host("node", natlab.HostConfig{})
	home, err := in.Site(natlab.SitePortRestricted, "home")
	if err != nil {
		log.Fatal(err)
	}
	nodeConn, err := node.ListenPacket("udp", ":3478")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := home.Host.ListenPacket("udp", ":5000")
	if err != nil {
		log.Fatal(err)
	}
	if _, err = conn.WriteTo([]byte("hello"), &net.UDPAddr{IP: node.Addr().AsSlice(), Port: 3478}); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, from, err := nodeConn.ReadFrom(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from inside %v, outside %v\n", buf[:n], home.Host.Addr(), from.(*net.UDPAddr).IP)
	// Output: hello from inside 192.168.1.2, outside 20.0.2.10
}
