package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
	"github.com/sallyport-net/sallyport/rendezvous"
)

// TestHostileAnswers: a callee that answers with nonsense, floods or silence
// costs the dialer its timeout, no more.
func TestHostileAnswers(t *testing.T) {
	answers := map[string]func(*rendezvous.Call){
		"silence":        func(c *rendezvous.Call) {},
		"an empty close": func(c *rendezvous.Call) { c.Close() },
		"a refusal":      func(c *rendezvous.Call) { c.Refuse("<b>\x1b[31mno\n\n" + strings.Repeat("x", 1000)) },
		"garbage": func(c *rendezvous.Call) {
			for kind := range 16 {
				c.Send(bytes.Repeat([]byte{byte(kind)}, 900))
			}
		},
		"too much": func(c *rendezvous.Call) {
			for c.Send(bytes.Repeat([]byte{3}, 4000)) == nil {
			}
		},
		"the offer itself": func(c *rendezvous.Call) { c.Send(append([]byte{1}, c.Offer()...)) },
		"one byte each": func(c *rendezvous.Call) {
			for kind := range 256 {
				c.Send([]byte{byte(kind)})
			}
		},
	}
	for name, answer := range answers {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, natlab.Config{})
				l.startNode(true)
				a := l.site(natlab.SitePortRestricted, "a")
				l.ready(a)
				m := l.mallory("mallory", answer)
				start := time.Now()
				link, err := a.Dial(t.Context(), sallyport.Ticket{Peer: m.id.PeerID(), Nodes: []sallyport.NodeURL{l.node.url}})
				var failed *peerconn.DialError
				if err == nil || !errors.As(err, &failed) {
					t.Errorf("got %v, %v; want a *DialError", link, err)
				}
				if !errors.Is(err, peerconn.ErrNoAnswer) && !errors.Is(err, peerconn.ErrRefused) {
					t.Errorf("got %v, want no answer or a refusal", err)
				}
				if took := time.Since(start); took > 16*time.Second {
					t.Errorf("it took %v", took)
				}
				if strings.ContainsAny(fmt.Sprint(err), "\x1b\n\r\x00") {
					t.Errorf("the error has control characters: %q", err)
				}
				t.Logf("after %v: %.200q", time.Since(start), err)
			})
		})
	}
}
