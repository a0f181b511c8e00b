// Package holepunch opens a path between two peers that both sit behind NATs or
// firewalls, on one UDP socket that other protocols share.
//
// What most programs want: tell the peer where we are and punch.
//
//	cands, err := holepunch.Gather(holepunch.GatherConfig{LocalPort: port, Observed: observed})
//	offer := holepunch.NewOffer(time.Now(), id.PeerID(), peer)
//	offer.Candidates = cands
//	sealed, err := holepunch.SealOffer(id, offer) // to the peer, over any channel; its answer comes back
//	answer, err := holepunch.OpenAnswer(id, offer, reply)
//	session := holepunch.NewSession(holepunch.SessionConfig{Secret: offer.Secret, Caller: true})
//	session.AddRemote(time.Now(), answer.Candidates...)
//	puncher := holepunch.NewPuncher(conn, session, holepunch.Hooks{})
//	path, err := puncher.Run(ctx)
//
// Package peerconn does all of it, with relays, and puts a QUIC connection on the paths found.
//
// The parts follow ICE (RFC 8445) without its SDP, roles and nomination: candidates and how they
// are gathered (Gather, STUNClient for RFC 8489), offers sealed and signed between PeerIDs, connectivity
// checks under keys of the offer, and the Session that decides when which check leaves.
//
// Guarantees. Nobody but the peer learns an address from an offer. A check is authentic,
// in one direction, and fresh: a forged, reflected or replayed one changes nothing. Everything that a hostile peer controls is
// bounded: candidates, learned addresses, packets per round; no packet goes to a port below 1024, to
// loopback, multicast or link-local addresses. The Session never looks at the clock.
//
// Limits. A session knocks plainly on every pair: where both sides map by address and
// port, ports must be predicted, which is not done here. TCP candidates, mDNS names and ICE's
// wire format are not spoken: the peer must be one of ours.
package holepunch
