package e2e

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sallyport "github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/holepunch/natlab"
	"github.com/sallyport-net/sallyport/peerconn"
)

// TestLogsNameNoAddress: "no peer address in logs": above debug level nothing that
// a host logs names an address of a peer, in success and in failure.
func TestLogsNameNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var logged bytes.Buffer
		handler := slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return logged.Write(b)
		}), nil)
		withLog := func(c *peerconn.Config) { c.Logger = slog.New(handler) }
		l := newLab(t, natlab.Config{})
		l.startNode(true)
		var sites []*natlab.Site
		var hosts []*peerconn.Host
		for i, kind := range []natlab.SiteKind{natlab.SitePortRestricted, natlab.SiteSymmetric, natlab.SiteSymmetric, natlab.SiteNone} {
			s, err := l.net.Site(kind, fmt.Sprintf("host%d", i))
			check(t, err)
			sites, hosts = append(sites, s), append(hosts, l.host(s.Host, withLog))
			go echo(hosts[i])
		}
		l.ready(hosts...)
		for i, from := range hosts {
			for j, to := range hosts {
				if i != j {
					link, err := from.Dial(t.Context(), to.Ticket())
					check(t, err)
					check(t, link.WaitPath(t.Context()))
					check(t, ask(t, link))
				}
			}
		}
		m := l.mallory("mallory", nil)
		m.says(t, hosts[0].PeerID(), []byte("garbage"))
		m.says(t, hosts[0].PeerID(), m.offer(t, hosts[0].PeerID()))
		hosts[0].Dial(t.Context(), sallyport.Ticket{Peer: m.id.PeerID()})
		sites[3].Uplink().Cut()
		hosts[0].Dial(t.Context(), hosts[3].Ticket())
		l.node.crash()
		hosts[1].Dial(t.Context(), hosts[2].Ticket())
		time.Sleep(time.Minute)
		for _, h := range hosts {
			h.Close()
		}
		mu.Lock()
		defer mu.Unlock()
		text := logged.String()
		for i, s := range sites {
			own := addrsOf(s)
			for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef.:", r) }) {
				if ap, err := netip.ParseAddrPort(strings.Trim(word, ":.")); err == nil && own(ap.Addr()) {
					t.Errorf("the address %v of host %d is in the logs", ap, i)
				}
				if a, err := netip.ParseAddr(strings.Trim(word, ":.")); err == nil && own(a) {
					t.Errorf("the address %v of host %d is in the logs", a, i)
				}
			}
		}
		t.Logf("%d lines logged", strings.Count(text, "\n"))
		if t.Failed() || text == "" {
			t.Logf("logged:\n%.4000s", text)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

var _ io.Writer = writerFunc(nil)
