package server

import "sync/atomic"

type counters struct {
	calls, refused, limited, rejected, stun, stunDropped atomic.Uint64
}

// Stats counts since the start, except where a name says "now".
type Stats struct {
	ConnectionsNow int // handshakes included
	CallableNow    int // peers that may be called
	VolunteersNow  int // relays of volunteers that are listed

	Calls       uint64 // offers passed on
	Refused     uint64 // by the callee
	Limited     uint64 // calls beyond a limit
	Rejected    uint64 // connections beyond a limit
	STUN        uint64 // Binding requests answered
	STUNDropped uint64 // beyond a limit
}

// Stats returns the node's counters. They name nobody.
func (s *Server) Stats() Stats {
	st := Stats{
		Calls:       s.counters.calls.Load(),
		Refused:     s.counters.refused.Load(),
		Limited:     s.counters.limited.Load(),
		Rejected:    s.counters.rejected.Load(),
		STUN:        s.counters.stun.Load(),
		STUNDropped: s.counters.stunDropped.Load(),
	}
	st.ConnectionsNow, st.CallableNow = s.registry.count()
	st.VolunteersNow = s.relays.count()
	return st
}
