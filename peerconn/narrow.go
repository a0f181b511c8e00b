package peerconn

import "github.com/sallyport-net/sallyport/rendezvous"

// narrow is the way through the rendezvous node while a call lasts. At first
// datagrams are collected for the offer or answer; then they go through the
// call one by one as far as its budget goes; the rest waits for a real path.
type narrow struct {
	path Path               // how this way is shown to people
	call *rendezvous.Call   // that send uses
	send func([]byte) error // nil while collecting and after the call
	sent [][]byte           // that went through the node, which the budget of a call bounds
	held [][]byte           // collected or waiting
	came chan struct{}      // closed when the first datagram was collected
}

// maxHeld bounds what waits: twice QUIC's initial congestion window. What does
// not fit is lost and QUIC sends it again.
const maxHeld = 64

// write keeps the order: once a datagram waits, so do those after it.
func (n *narrow) write(d []byte) {
	d = append([]byte(nil), d...)
	if len(n.held) == 0 && n.send != nil && n.send(d) == nil {
		n.sent = append(n.sent, d)
		return
	}
	if len(n.held) < maxHeld {
		n.held = append(n.held, d)
	}
	if n.came != nil {
		close(n.came)
		n.came = nil
	}
}

func (n *narrow) takeHeld() [][]byte {
	held := n.held
	n.held = nil
	return held
}

// takeAll returns what a real path is to carry first: what may still be under way
// through the node, again, so that nothing overtakes it (QUIC would think it lost
// and slow down for seconds), and then what waits.
func (n *narrow) takeAll() [][]byte {
	all := append(n.sent, n.held...)
	n.sent, n.held = nil, nil
	return all
}
