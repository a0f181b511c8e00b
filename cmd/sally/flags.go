package main

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
)

const everywhere = "With every command" // the heading of the global flags in help

// env names the variable of a flag: SALLY_ and the flag's name in capitals.
func env(flag string) []string {
	return []string{"SALLY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "identity", EnvVars: env("identity"), Category: everywhere, TakesFile: true,
			Usage: "this peer's private key, made on first use", Value: defaultIdentity(), DefaultText: "identity.key in the config folder"},
		&cli.StringSliceFlag{Name: "node", EnvVars: env("node"), Category: everywhere,
			Usage: "a node as `URL`, sally://NODEID@host:port; repeatable"},
		&cli.BoolFlag{Name: "json", EnvVars: env("json"), Category: everywhere, Usage: "print one JSON object a line"},
		&cli.StringFlag{Name: "log-level", EnvVars: env("log-level"), Category: everywhere, Value: "warn",
			Usage: "what goes to stderr: debug, info, warn, error or off"},
		&cli.StringFlag{Name: configFlag, EnvVars: env(configFlag), Category: everywhere, TakesFile: true,
			Usage: "`FILE` with settings, one \"flag = value\" a line", DefaultText: "config in the config folder"},
	}
}

func stringFlag(name, value, usage string) cli.Flag {
	return &cli.StringFlag{Name: name, EnvVars: env(name), Value: value, Usage: usage}
}

func listFlag(name, usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: name, EnvVars: env(name), Usage: usage}
}

func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, EnvVars: env(name), Usage: usage}
}

func durationFlag(name string, value time.Duration, usage string, aliases ...string) cli.Flag {
	return &cli.DurationFlag{Name: name, Aliases: aliases, EnvVars: env(name), Value: value, Usage: usage}
}

// defaultFile is a file of ours in the user's config folder, or in the working
// directory where there is no such folder.
func defaultFile(name string) string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return name
	}
	return filepath.Join(dir, "sallyport", name)
}

func defaultIdentity() string { return defaultFile("identity.key") }

// identity loads this peer's key, or makes it on first use.
func (inv *invocation) identity() (*sallyport.Identity, error) {
	path := inv.String("identity")
	id, created, err := sallyport.LoadOrCreateIdentity(path)
	if created {
		inv.hint("made a new identity: %s", path)
	}
	return id, err
}

// nodes parses every --node.
func (inv *invocation) nodes() ([]sallyport.NodeURL, error) {
	var nodes []sallyport.NodeURL
	for _, text := range inv.StringSlice("node") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		node, err := sallyport.ParseNodeURL(text)
		if err != nil {
			return nil, usagef("--node: %w", err)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// needNodes is nodes where at least one is needed.
func (inv *invocation) needNodes() ([]sallyport.NodeURL, error) {
	nodes, err := inv.nodes()
	if err == nil && len(nodes) == 0 {
		err = usagef("no node given: use --node sally://NODEID@host:port or SALLY_NODE (\"sally serve\" on a public machine prints its URL)")
	}
	return nodes, err
}

// version is that of the module as the go command recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
