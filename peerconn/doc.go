// Package peerconn turns a PeerID into a live QUIC link to that peer, whatever
// lies between: NATs, firewalls, or a relay where nothing else works.
//
// What most programs do: one [Host] for the program, [Host.Dial] on one side,
// [Host.Accept] on the other.
//
//	id, _, err := sallyport.LoadOrCreateIdentity(path)
//	host, err := peerconn.NewHost(peerconn.Config{
//		Identity: id,
//		Nodes:    []sallyport.NodeURL{node}, // where we can be called
//		Allow:    func(p sallyport.PeerID) bool { return friends[p] },
//	})
//	defer host.Close()
//	link, err := host.Dial(ctx, ticket) // or host.Accept(ctx)
//	stream, err := link.OpenStream(ctx) // or link.AcceptStream(ctx)
//
// A [Link] has streams and datagrams. [Host.Listener] and [Link.DialConn] give
// them as net.Listener and net.Conn, on which net/http and gRPC run unchanged.
// [Link.Path], [Link.Paths] and [Link.Events] say what carries the data now, what
// was tried, and what changed and why; [Link.WaitDirect] waits until no third
// machine is between. A failed Dial is a [*DialError] with everything that was
// tried.
//
// # How a link comes about
//
// Dial sends a sealed offer through a rendezvous node that the peer is registered
// at. The offer holds our candidates (RFC 8445) and QUIC's first flight; the answer
// holds the peer's. So the handshake takes one round trip through the node, which
// carries at most 16 KB for one call, and the link is usable while both sides
// still punch. Below QUIC lies one virtual address for the link; which real path
// takes the datagrams is decided underneath, by each side for its own direction:
// the same network before direct, direct before a relay, and then the faster one.
// A relay is asked for at the same time as the punching goes on, and stays the spare.
// Where all paths of a link are lost, the side that dialed calls again through a
// node, and both check anew.
//
// # Guarantees
//
// Both ends prove their PeerID in TLS 1.3 before a byte of the application flows;
// nodes and relays see ciphertext. Nobody is answered who is not allowed to call,
// and a stranger's datagram to the socket gets no answer at all. A path
// carries data only after an authenticated check has arrived over it. Streams lose
// and repeat nothing when the path changes under them; datagrams may be lost. A path
// that falls silent while data is sent is doubted after a round trip and a half,
// 60 ms at least, and data takes the next best one beside it until the doubt is
// resolved. Two peers that dial each other at once get the same link. What a
// peer can make this host remember or send is bounded. Close of a Host or a Link is
// idempotent, and what was blocked in it returns an error that is net.ErrClosed
// to errors.Is.
//
// # Limits
//
// A link needs a node for its beginning, and one real path soon after: without
// any within [Config.DialTimeout] it ends with [ErrNoPath]. It does not outlive its
// Host, and ends when nothing is heard of the peer for [Config.IdleTimeout] over
// any path. Congestion control does not know that the path changed; for a few
// seconds the rate may fit the one before. QUIC packets have at most 1,440 bytes.
// The peer learns of a stream with the first byte written to it. On sockets
// other than a *net.UDPConn, and on systems other than Linux, the data path works
// without batches and segmentation offload, and is slower.
package peerconn
