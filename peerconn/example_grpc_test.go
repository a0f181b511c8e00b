package peerconn_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/peerconn"
)

// gRPC runs over a link unchanged. Its own credentials are not needed: the link
// proves both ends and encrypts.
func ExampleLink_DialConn() {
	node, stop := startNode()
	defer stop()
	ctx := context.Background()
	anywhere := netip.MustParseAddrPort("127.0.0.1:0")
	serverKey, _ := sallyport.NewIdentity()
	clientKey, _ := sallyport.NewIdentity()

	server, err := peerconn.NewHost(peerconn.Config{
		Identity: serverKey,
		Nodes:    []sallyport.NodeURL{node},
		Allow:    func(p sallyport.PeerID) bool { return p == clientKey.PeerID() },
		Listen:   anywhere,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	if err := server.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	services := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(services, health.NewServer())
	go services.Serve(server.Listener())
	defer services.Stop()

	host, err := peerconn.NewHost(peerconn.Config{Identity: clientKey, Listen: anywhere})
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	link, err := host.Dial(ctx, server.Ticket())
	if err != nil {
		log.Fatal(err)
	}
	client, err := grpc.NewClient("passthrough:peer",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return link.DialConn(ctx) }))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	reply, err := grpc_health_v1.NewHealthClient(client).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.GetStatus())
	// Output: SERVING
}
