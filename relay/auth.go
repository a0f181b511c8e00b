package relay

import (
	"context"
	"errors"
	"sync"

	"github.com/pion/stun/v4"
)

// credentials is the long-term credential mechanism (RFC 8489 §9.2). mu guards all fields.
type credentials struct {
	mu                 sync.Mutex
	username, password string
	realm, nonce       string
	key                stun.MessageIntegrity // nil until the realm is known
}

func (c *credentials) set(username, password string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.username, c.password = username, password
	if c.key != nil {
		c.key = stun.NewLongTermIntegrity(username, c.realm, password)
	}
}

// learn takes realm and nonce from a 401 or 438; false where there are none.
func (c *credentials) learn(m *stun.Message) bool {
	var realm stun.Realm
	var nonce stun.Nonce
	if nonce.GetFrom(m) != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if realm.GetFrom(m) == nil {
		c.realm = realm.String()
	}
	c.nonce = nonce.String()
	c.key = stun.NewLongTermIntegrity(c.username, c.realm, c.password)
	return true
}

// build makes a request, authenticated once realm and nonce are known.
func (c *credentials) build(method stun.Method, attrs []stun.Setter) (*stun.Message, stun.MessageIntegrity, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	setters := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
	if c.key != nil {
		setters = append(setters, stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key)
	}
	m, err := stun.Build(append(setters, stun.Fingerprint)...)
	return m, c.key, err
}

// maxChallenges bounds how often one request is sent anew because the server asked for a (newer) nonce.
const maxChallenges = 3

// request is one logical request; its first packet is on the way, finish awaits the answer.
type request struct {
	a      *Allocation
	method stun.Method
	attrs  []stun.Setter
	first  *transaction
}

// begin sends a request's first packet before it returns, so that what the caller sends next
// follows it.
func (a *Allocation) begin(method stun.Method, attrs ...stun.Setter) (*request, error) {
	x, err := a.start(method, attrs)
	return &request{a: a, method: method, attrs: attrs, first: x}, err
}

func (a *Allocation) start(method stun.Method, attrs []stun.Setter) (*transaction, error) {
	m, key, err := a.auth.build(method, attrs)
	if err != nil {
		return nil, err
	}
	return a.txs.start(m, key)
}

// finish awaits the success response. An error response is an [*Error].
func (r *request) finish(ctx context.Context) (*stun.Message, error) {
	x := r.first
	for challenges := 0; ; challenges++ {
		m, err := x.wait(ctx)
		if err != nil {
			return nil, err
		}
		err = response(m)
		if err == nil {
			return m, nil
		}
		if challenges == maxChallenges || !r.challenged(x, m, err) {
			return nil, err
		}
		if x, err = r.a.start(r.method, r.attrs); err != nil {
			return nil, err
		}
	}
}

// challenged reports whether err asks to try again with what m brings: 401 to a request without
// credentials, 438 to one with a stale nonce.
func (r *request) challenged(x *transaction, m *stun.Message, err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	stale := e.Code == int(stun.CodeStaleNonce)
	first := e.Code == int(stun.CodeUnauthorized) && x.key == nil
	return (stale || first) && r.a.auth.learn(m)
}

// do sends a request and awaits its success response.
func (a *Allocation) do(ctx context.Context, method stun.Method, attrs ...stun.Setter) (*stun.Message, error) {
	r, err := a.begin(method, attrs...)
	if err != nil {
		return nil, err
	}
	return r.finish(ctx)
}
