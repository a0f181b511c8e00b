package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-net/sallyport"
)

func (r *runner) idCommand() *cli.Command {
	return &cli.Command{
		Name:  "id",
		Usage: "show this peer's ID",
		Description: `The ID is the public half of this peer's key. Give it to whoever should call you or
be called by you; it stays the same wherever this machine is. The key is made on
first use.

Examples:
  sally id
  sally id --identity ./laptop.key   # another key, made if it is not there
  sally listen --allow $(ssh friend sally id) --echo`,
		Action: r.action("", func(_ context.Context, inv *invocation) error {
			id, err := inv.identity()
			if err != nil {
				return err
			}
			inv.emit(idEvent{Peer: id.PeerID()})
			return nil
		}),
	}
}

type idEvent struct {
	Peer sallyport.PeerID `json:"peer"`
}

func (idEvent) name() string           { return "id" }
func (e idEvent) human(_ style) string { return e.Peer.String() }
