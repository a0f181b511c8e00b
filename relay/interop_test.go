package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v5"

	"github.com/sallyport-net/sallyport/relay"
	"github.com/sallyport-net/sallyport/relay/server"
)

// These tests run programs and libraries of others against ours, on loopback: coturn's clients and
// server (Debian package "coturn") and pion/turn's client.

func coturn(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("skipped: %s of Debian's package coturn is not installed", program)
	}
	return path
}

// background starts a program and kills it, by its own process, at the end of the test.
func background(t *testing.T, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
	})
}

// freePort is a UDP port that was free a moment ago.
func freePort(t *testing.T, ip string) string {
	t.Helper()
	c := listen(t, ip)
	defer c.Close()
	return fmt.Sprint(addrOf(c).Port())
}

// begin starts a program; the function it returns waits for its end and gives what it wrote.
// coturn's exit codes mean nothing, so only the text counts.
func begin(t *testing.T, path string, args ...string) func(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the program, at the latest with ctx
	return func(t *testing.T) string {
		t.Helper()
		err := <-ended
		if ctx.Err() != nil {
			t.Fatalf("%s %v did not end: %v\n%s", path, args, err, out.String())
		}
		return out.String()
	}
}

func TestCoturnStunClient(t *testing.T) {
	path := coturn(t, "turnutils_stunclient")
	h := startServer(t, "127.0.0.1", nil)
	out := begin(t, path, "-p", fmt.Sprint(h.addr.Port()), "127.0.0.1")(t)
	if !strings.Contains(out, "UDP reflexive addr: 127.0.0.1:") {
		t.Errorf("no reflexive address:\n%s", out)
	}
}

// clientRun is a run of coturn's client against a server of ours, with coturn's echoing peer.
type clientRun struct {
	*harness
	name string
	out  func(t *testing.T) string
}

func uclient(t *testing.T, name, ip string, change func(*server.Config), args ...string) clientRun {
	t.Helper()
	client, peer := coturn(t, "turnutils_uclient"), coturn(t, "turnutils_peer")
	h := startServer(t, ip, func(c *server.Config) {
		c.Quotas.PerUser = 100
		if change != nil {
			change(c)
		}
	})
	port := freePort(t, ip)
	background(t, peer, "-L", ip, "-p", port)
	args = append(args, "-W", string(secret), "-u", "bob", "-e", ip, "-r", port, "-l", "170",
		"-L", ip, "-p", fmt.Sprint(h.addr.Port()), ip)
	return clientRun{harness: h, name: name, out: begin(t, client, args...)}
}

// TestCoturnClient: all that coturn's client sends through our server comes back. The runs are
// mostly pauses, so they go on at the same time.
func TestCoturnClient(t *testing.T) {
	const v4, v6 = "127.0.0.1", "::1"
	runs := []clientRun{
		uclient(t, "channels", v4, nil, "-n", "100", "-m", "10"),
		uclient(t, "send indications", v4, nil, "-s", "-n", "50", "-m", "4"),
		uclient(t, "client to client", v4, nil, "-y", "-n", "50", "-m", "4"),
		uclient(t, "without RTCP", v4, nil, "-c", "-n", "20"),
		uclient(t, "padded channel data", v4, nil, "-D", "-n", "20"),
		uclient(t, "extra requests", v4, nil, "-G", "-n", "20"),
		uclient(t, "IPv6", v6, nil, "-x", "-c", "-n", "20"),
	}
	for _, run := range runs {
		t.Run(run.name, func(t *testing.T) {
			if out := run.out(t); !strings.Contains(out, "Total lost packets 0 (0.000000%)") {
				t.Errorf("packets were lost:\n%s", out)
			}
			if s := run.Stats(); s.PacketsUp < 20 || s.PacketsDown < 20 {
				t.Errorf("little went through the server: %+v", s)
			}
		})
	}
}

// TestCoturnHostile: the modes of coturn's client that send nonsense, flood, or vanish at random
// (and then may well lose packets) leave our server whole.
func TestCoturnHostile(t *testing.T) {
	var runs []clientRun
	for _, mode := range []string{"-N", "-O", "-B"} {
		runs = append(runs, uclient(t, mode, "127.0.0.1", nil, mode, "-n", "20"))
	}
	for _, run := range runs {
		run.out(t)
		if run.Stats().Allocated == 0 {
			t.Errorf("%s never allocated: nothing was tested", run.name)
		}
		run.allocate(run.config("alice"))
	}
}

// TestCoturnForbidden: without a test's allowance loopback is denied.
func TestCoturnForbidden(t *testing.T) {
	deny := func(c *server.Config) { c.AllowPeers = nil }
	for name, args := range map[string][]string{"channel bind": {"-n", "5"}, "create permission": {"-s", "-n", "5"}} {
		if out := uclient(t, name, "127.0.0.1", deny, args...).out(t); !strings.Contains(out, "error 403 (Forbidden)") {
			t.Errorf("%s not forbidden:\n%s", name, out)
		}
	}
}

// TestCoturnWrongSecret: coturn's client with another secret gets nowhere.
func TestCoturnWrongSecret(t *testing.T) {
	change := func(c *server.Config) { c.Secrets = func() [][]byte { return [][]byte{[]byte("another")} } }
	run := uclient(t, "wrong secret", "127.0.0.1", change, "-n", "5")
	out := run.out(t)
	if s := run.Stats(); !strings.Contains(out, "Cannot complete Allocation") || s.Allocated != 0 || s.Unauthorized == 0 {
		t.Errorf("not unauthorized, %+v:\n%s", s, out)
	}
}

// TestCoturnServer runs our client with coturn as the server.
func TestCoturnServer(t *testing.T) {
	path := coturn(t, "turnserver")
	port := freePort(t, "127.0.0.1")
	background(t, path, "-n", "--listening-ip", "127.0.0.1", "--listening-port", port, "--relay-ip", "127.0.0.1",
		"--use-auth-secret", "--static-auth-secret", string(secret), "--realm", "example.org", "--no-tls", "--no-dtls",
		"--no-tcp", "--no-cli", "--allow-loopback-peers", "--log-file", filepath.Join(t.TempDir(), "log"), "--simple-log",
		"--pidfile", filepath.Join(t.TempDir(), "pid"), "--userdb", filepath.Join(t.TempDir(), "db"))
	h := &harness{t: t, addr: netip.MustParseAddrPort("127.0.0.1:" + port)}
	peer := listen(t, "127.0.0.1")
	defer peer.Close()
	in := make(inbox, 16)
	cfg := h.config("alice")
	cfg.Receive = in.receive
	a := h.allocate(cfg) // retransmission waits for the server to be up
	if _, err := a.WriteTo([]byte("first"), addrOf(peer)); err != nil {
		t.Fatalf("WriteTo: %v", err)
	}
	wantRead(t, peer, "first", a.Relayed(), "before the channel is bound")
	if err := a.Bind(testContext(t), addrOf(peer)); err != nil {
		t.Fatalf("Bind: %v", err)
	}
	_, _ = a.WriteTo([]byte("second"), addrOf(peer))
	wantRead(t, peer, "second", a.Relayed(), "over the channel")
	_, _ = peer.WriteTo([]byte("back"), net.UDPAddrFromAddrPort(a.Relayed()))
	in.want(t, "back", addrOf(peer), "back over the channel")

	stranger := listen(t, "127.0.0.1")
	defer stranger.Close()
	_, _ = stranger.WriteTo([]byte("data"), net.UDPAddrFromAddrPort(a.Relayed()))
	in.want(t, "data", addrOf(stranger), "as a Data indication")
	if err := a.Refresh(testContext(t)); err != nil {
		t.Errorf("Refresh: %v", err)
	}
	if err := relay.Probe(testContext(t), h.config("node")); err != nil {
		t.Errorf("Probe: %v", err)
	}
	bad := h.config("alice")
	bad.Password = "wrong"
	if _, err := relay.Allocate(testContext(t), bad); !errors.Is(err, relay.ErrUnauthorized) {
		t.Errorf("wrong password: %v", err)
	}
}

// TestPionClient runs pion/turn's client against our server.
func TestPionClient(t *testing.T) {
	h := startServer(t, "127.0.0.1", nil)
	conn, peer := listen(t, "127.0.0.1"), listen(t, "127.0.0.1")
	defer conn.Close()
	defer peer.Close()
	cfg := h.config("alice")
	client, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: h.addr.String(), Username: cfg.Username, Password: cfg.Password, Conn: conn,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	relayed, err := client.Allocate()
	if err != nil {
		t.Fatalf("Allocate: %v", err)
	}
	defer relayed.Close()
	from := relayed.LocalAddr().(*net.UDPAddr).AddrPort()
	for range 3 { // the first ones as indications, the channel is bound meanwhile
		if _, err := relayed.WriteTo([]byte("there"), peer.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		wantRead(t, peer, "there", from, "from pion's client")
		_, _ = peer.WriteTo([]byte("back"), net.UDPAddrFromAddrPort(from))
		wantRead(t, relayed, "back", addrOf(peer), "to pion's client")
	}
}
