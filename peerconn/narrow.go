package peerconn

import "github.com/sallyport-net/sallyport/rendezvous"

// narrow is the way through the rendezvous node while a call lasts. At first
// datagrams are collected for the offer or answer; then they go through the
// call one by one as far as its budget goes; the rest waits for a real path.
type narrow struct {
	path Path               // how this way is shown to people
	call *rendezvous.Call   // that send uses
	send func([]byte) error // nil while collecting and after the call
	held [][]byte           // collected or waiting
	came chan struct{}      // closed when the first datagram was collected
}

// maxHeld bounds what waits: twice QUIC's initial congestion window. What does
// not fit is lost and QUIC sends it again.
const maxHeld = 64

func (n *narrow) write(d []byte) {
	if n.send != nil && n.send(d) == nil {
		return
	}
	if len(n.held) < maxHeld {
		n.held = append(n.held, append([]byte(nil), d...))
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
