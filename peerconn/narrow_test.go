package peerconn

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/sallyport-net/sallyport/holepunch"
)

func datagrams(held [][]byte) (out []string) {
	for _, d := range held {
		out = append(out, string(d))
	}
	return out
}

// Before the call there is a collection for the offer; then datagrams go one by
// one while the budget lasts; what exceeds it waits, in order.
func TestNarrow(t *testing.T) {
	came := make(chan struct{})
	n := narrow{came: came}
	b := []byte("1")
	n.write(b)
	copy(b, "x") // QUIC uses its buffer again
	n.write([]byte("2"))
	select {
	case <-came:
	default:
		t.Error("nobody was told of the first datagram")
	}
	var sent []string
	budget := 2
	n.send = func(d []byte) error {
		if budget == 0 {
			return errors.New("over budget")
		}
		budget--
		sent = append(sent, string(d))
		return nil
	}
	for _, d := range n.takeHeld() {
		n.write(d)
	}
	n.write([]byte("3"))
	n.write([]byte("4"))
	if want := []string{"1", "2"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if got, want := datagrams(n.takeHeld()), []string{"3", "4"}; !slices.Equal(got, want) {
		t.Errorf("held %q, want %q", got, want)
	}
	if n.takeHeld() != nil {
		t.Error("held twice")
	}
}

func TestNarrowHoldsABoundedNumber(t *testing.T) {
	n := narrow{}
	for i := range maxHeld + 10 {
		n.write([]byte{byte(i)})
	}
	held := n.takeHeld()
	if len(held) != maxHeld || held[0][0] != 0 {
		t.Errorf("%d held, the first is %v; the oldest %d are to be kept", len(held), held[0], maxHeld)
	}
}

// A flight fits one sealed message; the rest stays for the way through the node.
func TestTakeFlight(t *testing.T) {
	for name, test := range map[string]struct {
		sizes []int
		took  int
	}{
		"nothing":                   {nil, 0},
		"one Initial":               {[]int{1200}, 1},
		"two":                       {[]int{1200, 1200}, 2},
		"a third does not fit":      {[]int{1200, 1200, 1200}, 2},
		"exactly as much as fits":   {[]int{1300, 1300, 1}, 2},
		"order counts, not fitting": {[]int{1200, 1500, 10}, 1},
		"too large alone":           {[]int{maxFlightSize + 1, 10}, 0},
		"many small":                {slices.Repeat([]int{10}, holepunch.MaxFlight+3), holepunch.MaxFlight},
	} {
		t.Run(name, func(t *testing.T) {
			n := narrow{}
			for i, size := range test.sizes {
				n.write(slices.Repeat([]byte{byte(i)}, size))
			}
			flight := n.takeFlight()
			if len(flight) != test.took || len(n.held) != len(test.sizes)-test.took {
				t.Errorf("took %d and left %d of %d, want %d taken", len(flight), len(n.held), len(test.sizes), test.took)
			}
			n.write([]byte("later")) // must not write into the flight
			for i, d := range append(flight, n.held[:len(n.held)-1]...) {
				if d[0] != byte(i) {
					t.Errorf("datagram %d is number %d", i, d[0])
				}
			}
		})
	}
}

func TestVirtualAddresses(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		v := newVirtual()
		a, ok := virtualOf(v)
		if !ok || !isVirtual(v.IP) || !a.IsPrivate() || seen[a.String()] {
			t.Fatalf("%v: virtual %v, private %v, seen %v", v, ok, a.IsPrivate(), seen[a.String()])
		}
		seen[a.String()] = true
	}
	for _, s := range []string{"192.0.2.1:1", "[fd00::1]:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"} {
		if isVirtual(addr(s).Addr().AsSlice()) {
			t.Errorf("%s is taken for a virtual address", s)
		}
	}
	if _, ok := virtualOf(Addr{}); ok {
		t.Error("a PeerID is taken for a virtual address")
	}
}

func TestEachDatagram(t *testing.T) {
	for _, test := range []struct {
		size, segment int
		want          string
	}{
		{5, 0, "[5]"}, {0, 0, "[0]"}, {5, 5, "[5]"}, {6, 2, "[2 2 2]"}, {7, 3, "[3 3 1]"}, {2, 9, "[2]"}, {0, 3, "[]"},
	} {
		sizes := []int{}
		eachDatagram(make([]byte, test.size), test.segment, func(d []byte) error {
			sizes = append(sizes, len(d))
			return nil
		})
		if got := fmt.Sprint(sizes); got != test.want {
			t.Errorf("%d bytes in segments of %d: %s, want %s", test.size, test.segment, got, test.want)
		}
	}
	count := 0
	err := eachDatagram(make([]byte, 6), 2, func([]byte) error { count++; return errTooMany })
	if count != 1 || err == nil {
		t.Errorf("went on after an error: %d times, %v", count, err)
	}
}
