package server

import "sync/atomic"

// Stats are counts since the start, except Allocations, Users and Prefixes, which are of now.
type Stats struct {
	Allocations  int    // living allocations
	Users        int    // users that have any
	Prefixes     int    // source prefixes that have any
	Allocated    uint64 // allocations ever made
	Refused      uint64 // requests refused for a quota or a limit
	Unauthorized uint64 // requests with a wrong or expired credential
	Denied       uint64 // permissions and packets refused by the deny list
	Filtered     uint64 // datagrams dropped as malformed or not ours
	Limited      uint64 // unauthenticated requests left without an answer
	Paced        uint64 // payloads dropped because of Rates.Relay
	PacketsUp    uint64 // relayed from clients to peers
	BytesUp      uint64 // their payload
	PacketsDown  uint64 // relayed from peers to clients
	BytesDown    uint64 // their payload; with the indication's header where no channel is bound
}

type counters struct {
	allocated, refused, unauthorized, denied, filtered, limited, paced atomic.Uint64
	packetsUp, bytesUp, packetsDown, bytesDown                         atomic.Uint64
}

func (c *counters) relayedUp(n int) {
	c.packetsUp.Add(1)
	c.bytesUp.Add(uint64(n))
}

func (c *counters) relayedDown(n int) {
	c.packetsDown.Add(1)
	c.bytesDown.Add(uint64(n))
}

// Stats returns the counts; each is exact, together they are not a snapshot.
func (s *Server) Stats() Stats {
	allocations, users, prefixes := s.ledger.count()
	c := &s.stats
	return Stats{
		Allocations: allocations, Users: users, Prefixes: prefixes,
		Allocated: c.allocated.Load(), Refused: c.refused.Load(), Unauthorized: c.unauthorized.Load(),
		Denied: c.denied.Load(), Filtered: c.filtered.Load(), Limited: c.limited.Load(), Paced: c.paced.Load(),
		PacketsUp: c.packetsUp.Load(), BytesUp: c.bytesUp.Load(),
		PacketsDown: c.packetsDown.Load(), BytesDown: c.bytesDown.Load(),
	}
}
