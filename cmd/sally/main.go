// Command sally gives two programs behind their own NATs a live, mutually
// authenticated QUIC connection, and says what the network between them does.
//
// On a server with a public address, on one peer and on another:
//
//	sally serve
//	sally listen --node sally://… --allow any --echo
//	sally ping --until-direct sally1…
//
// "sally demo" shows the same on one machine, without a network. What scripts
// rely on (exit codes, events, fields) is written in docs/CLI.md; output.go
// holds the rules of everything that is printed.
//
// The command holds no logic of its own: it reads flags, wires packages
// together, and prints. Only here are files of the user's read and signals
// handled. It does not run in the background and has no state besides the
// identity file and, for a node, its data folder.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}
