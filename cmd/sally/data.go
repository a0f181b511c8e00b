package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
)

const (
	nodeKeyFile     = "node.key"
	relaySecretFile = "relay.secret"
	nodeFile        = "node.json"
	secretSize      = 32
	maxSecrets      = 2 // the current one and, for rotation, its predecessor
)

// dataDir is a node's folder: its key, the relay's secrets, and what it last announced.
type dataDir string

func dataFlag() cli.Flag {
	return &cli.StringFlag{Name: "data", EnvVars: env("data"), Value: defaultData(), TakesFile: true,
		DefaultText: "sallyport in the user's data folder", Usage: "`DIR` that keeps the node's key and secrets across restarts"}
}

// defaultData follows the XDG base directories on Unix, and the system's custom elsewhere.
func defaultData() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "sallyport")
	}
	if dir := os.Getenv("LocalAppData"); dir != "" && runtime.GOOS == "windows" {
		return filepath.Join(dir, "sallyport")
	}
	home, err := os.UserHomeDir()
	switch {
	case err != nil:
		return filepath.FromSlash("/var/lib/sallyport") // a service without a home
	case runtime.GOOS == "darwin":
		return filepath.Join(home, "Library", "Application Support", "sallyport")
	}
	return filepath.Join(home, ".local", "share", "sallyport")
}

func (d dataDir) path(name string) string { return filepath.Join(string(d), name) }

func (d dataDir) identity() (*sallyport.Identity, error) {
	id, _, err := sallyport.LoadOrCreateIdentity(d.path(nodeKeyFile))
	return id, err
}

// secrets reads the relay's secrets, one in hexadecimal a line, the current one first. With
// create, a missing file is made.
func (d dataDir) secrets(create bool) ([][]byte, error) {
	path := d.path(relaySecretFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		return d.newSecret(path)
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, usagef("the relay's secrets in %s are open to others (mode %04o): run: chmod 600 %[1]s", path, info.Mode().Perm())
	}
	var out [][]byte
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		secret, err := hex.DecodeString(line)
		if err != nil || len(secret) < secretSize/2 || len(out) == maxSecrets {
			return nil, usagef("%s: want one or two lines of 32 or more hexadecimal digits; remove it and a new secret is made", path)
		}
		out = append(out, secret)
	}
	if len(out) == 0 {
		return nil, usagef("%s is empty; remove it and a new secret is made", path)
	}
	return out, nil
}

func (d dataDir) newSecret(path string) ([][]byte, error) {
	secret := newSecret()
	if err := os.WriteFile(path, []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("keeping the relay's secret: %w", err)
	}
	return [][]byte{secret}, nil
}

func newSecret() []byte {
	secret := make([]byte, secretSize)
	rand.Read(secret) // never fails, see crypto/rand
	return secret
}

// announcement is what a node last said about itself, for "sally credential".
type announcement struct {
	Node  string   `json:"node"`
	Relay []string `json:"relay"`
}

func (d dataDir) announce(a announcement) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(d.path(nodeFile)); err == nil && bytes.Equal(old, append(text, '\n')) {
		return nil
	}
	return os.WriteFile(d.path(nodeFile), append(text, '\n'), 0o600)
}

func (d dataDir) announced() (a announcement, err error) {
	text, err := os.ReadFile(d.path(nodeFile))
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(text, &a)
}
