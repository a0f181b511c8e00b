// Package sallyport is the vocabulary that every other package of Sallyport
// speaks: who a peer is, where its home nodes are, and how two peers prove to
// each other that they are who they say.
//
// Most programs need three things from here. [LoadOrCreateIdentity] gives this
// program its key; [ParseTicket] or [ParsePeerID] reads what a user pasted;
// [ParseNodeURL] reads the address of a node. Everything else (finding the
// peer, punching, relaying, the link itself) is package peerconn.
//
//	id, _, err := sallyport.LoadOrCreateIdentity("identity.key")
//	fmt.Println(id.PeerID())
//
// Guarantees. A [PeerID] is an Ed25519 public key, so an ID cannot be claimed
// without the private key behind it: [Identity.ClientTLS] and
// [Identity.ServerTLS] give TLS 1.3 configurations that pin the other side to
// its PeerID in both directions, and [Seal] encrypts so that only the holder
// of an ID can read. No certificate authority, no clock and no network is
// involved: certificates are self-made, and their dates are ignored. Private
// keys never print and are never compared.
//
// Limits. One key serves both signing (Ed25519) and sealing (X25519, by the
// birational map of RFC 7748 section 4.1); the two uses are separated by
// context strings. A key cannot be rotated without changing the PeerID. The
// package uses the standard library alone.
package sallyport
