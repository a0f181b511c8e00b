package server

import (
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"

	"github.com/sallyport-net/sallyport/relay"
)

// verifier checks time-limited credentials. All fields are fixed.
type verifier struct {
	secrets func() [][]byte
	realm   string
	maxTTL  time.Duration // credentials that expire later than this from now are not ours
	grace   time.Duration // how long after expiry a living allocation may be kept up
	now     func() time.Time
}

// verify finds the secret under which raw, a request with MESSAGE-INTEGRITY, is authentic. A
// credential lets a user allocate until it expires; what an allocation then needs (Refresh,
// CreatePermission, ChannelBind) goes on with the same credential for grace, because a link lives
// longer than the minutes a credential does. With no secret at all everything is refused.
func (v *verifier) verify(raw []byte, ra *turn.RequestAttributes) (user string, key stun.MessageIntegrity, ok bool) {
	expires, user, err := relay.ParseUsername(ra.Username)
	if err != nil || ra.Realm != v.realm || !v.timely(expires, ra.Method) {
		return "", nil, false
	}
	m := new(stun.Message)
	if stun.Decode(raw, m) != nil {
		return "", nil, false
	}
	for _, secret := range v.secrets() {
		if len(secret) == 0 {
			continue
		}
		key := stun.NewLongTermIntegrity(ra.Username, v.realm, relay.CredentialPassword(secret, ra.Username))
		if key.Check(m) == nil { // compares in constant time
			return user, key, true
		}
	}
	return "", nil, false
}

func (v *verifier) timely(expires time.Time, method stun.Method) bool {
	now := v.now()
	if v.maxTTL >= 0 && expires.After(now.Add(v.maxTTL)) {
		return false
	}
	if method != stun.MethodAllocate {
		now = now.Add(-v.grace)
	}
	return !expires.Before(now.Truncate(time.Second))
}
