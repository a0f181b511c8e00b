package main

import (
	"context"

	"github.com/urfave/cli/v2"
)

func (r *runner) demoCommand() *cli.Command {
	return &cli.Command{Name: "demo", Usage: "see two peers meet, on this machine alone",
		Action: r.action("", func(ctx context.Context, inv *invocation) error { return nil })}
}
