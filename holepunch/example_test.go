package holepunch_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// Two programs in different places tell each other where they are, and punch. Here the
// places are in memory, and the sealed offer is handed over by a function call.
func Example() {
	in := natlab.New(natlab.Config{Seed: 1})
	defer in.Close()
	alice, bob := newExamplePeer(in, "alice"), newExamplePeer(in, "bob")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	offer := holepunch.NewOffer(time.Now(), alice.id.PeerID(), bob.id.PeerID())
	offer.Candidates = alice.candidates
	sealed, err := holepunch.SealOffer(alice.id, offer)
	if err != nil {
		log.Fatal(err)
	}
	answers := make(chan []byte)
	go bob.answer(ctx, alice.id.PeerID(), sealed, answers)
	answer, err := holepunch.OpenAnswer(alice.id, offer, <-answers)
	if err != nil {
		log.Fatal(err)
	}
	path, err := alice.punch(ctx, holepunch.SessionConfig{Secret: offer.Secret, Caller: true}, answer.Candidates)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("alice has a", path.Kind, "path, which is", path.State)
	<-answers
	// Output: alice has a direct path, which is confirmed
}

// examplePeer is a peer with a public address, for brevity: behind a NAT it would ask
// a STUN server first, with a STUNClient, and gather with GatherConfig.Observed.
type examplePeer struct {
	id         *sallyport.Identity
	conn       net.PacketConn
	candidates []holepunch.Candidate
}

func newExamplePeer(in *natlab.Internet, name string) *examplePeer {
	id, err := sallyport.NewIdentity()
	if err != nil {
		log.Fatal(err)
	}
	host := in.Host(name, natlab.HostConfig{})
	conn, err := host.ListenPacket("udp", ":5000")
	if err != nil {
		log.Fatal(err)
	}
	candidates, err := holepunch.Gather(holepunch.GatherConfig{
		LocalPort: 5000,
		Interfaces: func() ([]holepunch.Interface, error) {
			return []holepunch.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.PrefixFrom(host.Addr(), 32)}}}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	return &examplePeer{id, conn, candidates}
}

func (p *examplePeer) answer(ctx context.Context, caller sallyport.PeerID, sealed []byte, answers chan<- []byte) {
	defer close(answers)
	offer, err := holepunch.OpenOffer(p.id, caller, sealed)
	if err != nil {
		log.Fatal(err)
	}
	reply, err := holepunch.SealAnswer(p.id, offer, &holepunch.Answer{Candidates: p.candidates})
	if err != nil {
		log.Fatal(err)
	}
	answers <- reply
	if _, err := p.punch(ctx, holepunch.SessionConfig{Secret: offer.Secret}, offer.Candidates); err != nil {
		log.Fatal(err)
	}
}

func (p *examplePeer) punch(ctx context.Context, cfg holepunch.SessionConfig, remote []holepunch.Candidate) (holepunch.PathStatus, error) {
	session := holepunch.NewSession(cfg)
	session.AddRemote(time.Now(), remote...)
	return holepunch.NewPuncher(p.conn, session, holepunch.Hooks{}).Run(ctx)
}
