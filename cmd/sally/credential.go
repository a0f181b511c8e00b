package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport/relay"
)

const maxCredentialTTL = 24 * time.Hour // the relay accepts nothing that ends later

func (r *runner) credentialCommand() *cli.Command {
	return &cli.Command{
		Name:      "credential",
		Usage:     "make a time-limited TURN user of this node's relay",
		ArgsUsage: "NAME",
		Description: `For software that is not Sallyport's and speaks TURN (RFC 8656), such as a browser. Run it on
the node's machine: it reads the relay's secret from the data folder. Peers of Sallyport need
none: the node gives them theirs.

Examples:
  sally credential browser
  sally credential phone --ttl 8h --json`,
		Flags: []cli.Flag{dataFlag(), durationFlag("ttl", time.Hour, "how long it may be used to begin, at most 24h")},
		Action: r.action("NAME", func(_ context.Context, inv *invocation) error {
			name, ttl := inv.Args().First(), inv.Duration("ttl")
			if ttl < time.Minute || ttl > maxCredentialTTL {
				return usagef("--ttl %v: want 1m to %v", ttl, maxCredentialTTL)
			}
			if name == "" || len(name) > relay.MaxUser || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }) {
				return usagef("NAME %q: want 1 to %d printable ASCII characters without spaces", name, relay.MaxUser)
			}
			dir := dataDir(inv.String("data"))
			secrets, err := dir.secrets(false)
			if errors.Is(err, fs.ErrNotExist) {
				return usagef("there is no relay's secret in %s: run \"sally serve\" first, or name its folder with --data", dir)
			}
			if err != nil {
				return err
			}
			node, err := dir.announced()
			if err != nil {
				return fmt.Errorf("reading what the node announced: %w", err)
			}
			expires := time.Now().Add(ttl).Truncate(time.Second)
			e := credentialEvent{Expires: expires.UTC()}
			e.Username, e.Password = relay.MintCredential(secrets[0], name, expires)
			for _, addr := range node.Relay {
				e.URIs = append(e.URIs, "turn:"+addr+"?transport=udp") // RFC 7065
			}
			inv.emit(e)
			return nil
		}),
	}
}

type credentialEvent struct {
	Username string    `json:"username"`
	Password string    `json:"password"`
	URIs     []string  `json:"uris"`
	Expires  time.Time `json:"expires"`
}

func (credentialEvent) name() string { return "credential" }
func (e credentialEvent) human(_ style) string {
	return fmt.Sprintf("username %s\npassword %s\nuris     %s\nexpires  %s",
		e.Username, e.Password, strings.Join(e.URIs, " "), e.Expires.Format(time.RFC3339))
}
