package peerconn_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

// net/http runs over links unchanged: the server on a Host's Listener, the
// client with a Transport that opens streams. The handler knows who asks.
func ExampleHost_Listener() {
	node, stop := startNode()
	defer stop()
	ctx := context.Background()
	anywhere := netip.MustParseAddrPort("127.0.0.1:0")
	serverKey, _ := sallyport.NewIdentity()
	clientKey, _ := sallyport.NewIdentity()

	server, err := peerconn.NewHost(peerconn.Config{
		Identity: serverKey,
		Nodes:    []sallyport.NodeURL{node},
		Allow:    func(sallyport.PeerID) bool { return true },
		Listen:   anywhere,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	if err := server.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := r.RemoteAddr == clientKey.PeerID().String()
		fmt.Fprintf(w, "%s %s, known: %v", r.Method, r.URL.Path, known)
	})}
	go web.Serve(server.Listener())
	defer web.Close()

	host, err := peerconn.NewHost(peerconn.Config{Identity: clientKey, Listen: anywhere})
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	link, err := host.Dial(ctx, server.Ticket())
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return link.DialConn(ctx)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://any.name/page") // plain http: the link is encrypted and authenticated
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.Status)
	fmt.Printf("%s\n", body)
	// Output:
	// 200 OK
	// GET /page, known: true
}
