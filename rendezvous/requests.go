package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sallyport-net/sallyport"
	"github.com/sallyport-net/sallyport/rendezvous/internal/wire"
)

const requestTimeout = 10 * time.Second

// Present asks the node which of the peers are registered and may be called;
// the answer is in the order of ids.
func (c *Client) Present(ctx context.Context, ids ...sallyport.PeerID) ([]bool, error) {
	var out []bool
	for part := range slices.Chunk(ids, wire.MaxIDs) {
		_, payload, err := c.request(ctx, wire.Present(part).Append(nil), wire.TypePresence)
		if err != nil {
			return nil, fmt.Errorf("asking who is present: %w", err)
		}
		here, err := wire.ParsePresence(payload)
		if err != nil || len(here) != len(part) {
			return nil, fmt.Errorf("asking who is present: %w", c.nodeError(errProtocol))
		}
		out = append(out, here...)
	}
	return out, nil
}

// Relays asks the node for relays, with credentials minted for this peer that
// last ten minutes. There may be none.
func (c *Client) Relays(ctx context.Context) ([]Relay, error) {
	asked := time.Now() // credentials began later: they end no earlier than we say
	s, payload, err := c.request(ctx, wire.RelaysRequest{}.Append(nil), wire.TypeRelays)
	if err != nil {
		return nil, fmt.Errorf("asking for relays: %w", err)
	}
	list, err := wire.ParseRelays(payload)
	if err != nil {
		return nil, fmt.Errorf("asking for relays: %w", c.nodeError(errProtocol))
	}
	out := make([]Relay, 0, len(list))
	for _, r := range list {
		out = append(out, Relay{
			Name: r.Name, ID: r.ID, Realm: r.Realm,
			Addrs:    atNode(r.Addrs, remoteAddr(s.conn).Addr()),
			Username: r.Username, Password: r.Password,
			Expires: asked.Add(r.TTL),
		})
	}
	return out, nil
}

// request sends one frame on a stream of its own and waits for one back.
func (c *Client) request(ctx context.Context, b []byte, want wire.Type) (*session, []byte, error) {
	s, stream, err := c.open(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	payload, err := s.response(ctx, stream, want)
	return s, payload, err
}

func (s *session) response(ctx context.Context, stream *quic.Stream, want wire.Type) ([]byte, error) {
	stream.Close()
	defer stream.CancelRead(wire.CodeClosed)
	stream.SetReadDeadline(time.Now().Add(requestTimeout))
	stop := context.AfterFunc(ctx, func() { stream.SetReadDeadline(time.Now()) })
	defer stop()
	kind, payload, err := wire.NewReader(stream).Next()
	if err != nil {
		return nil, s.requestCause(ctx, err)
	}
	if kind == want {
		return payload, nil
	}
	if end, err := wire.ParseEnd(payload); err == nil && kind == wire.TypeEnd {
		return nil, endCause(end)
	}
	return nil, s.client.nodeError(errProtocol)
}

func (s *session) requestCause(ctx context.Context, err error) error {
	_, cancelled := errors.AsType[*quic.StreamError](err)
	switch {
	case ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.client.nodeError(errSilent)
	case cancelled:
		return s.client.nodeError(errProtocol)
	}
	return s.failure(err)
}
