package relay

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxUser is the longest user part of a username, in bytes; with the time in front it stays far
// below the 508 bytes of RFC 8489 §14.3.
const MaxUser = 128

// MintCredential makes a time-limited credential in the form of coturn and the TURN REST draft:
// the username is "unix:user", the password base64(HMAC-SHA1(secret, username)). A server that
// knows secret accepts it for new allocations until expires (to the second). user must not be
// empty or longer than [MaxUser].
func MintCredential(secret []byte, user string, expires time.Time) (username, password string) {
	username = strconv.FormatInt(expires.Unix(), 10) + ":" + user
	return username, CredentialPassword(secret, username)
}

// CredentialPassword computes the password that belongs to username under secret.
func CredentialPassword(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// ParseUsername splits the username of a time-limited credential. It checks the form, not the
// time: an expired username parses. The error wraps [ErrUsername].
func ParseUsername(username string) (expires time.Time, user string, err error) {
	stamp, user, found := strings.Cut(username, ":")
	if !found || user == "" || len(user) > MaxUser {
		return time.Time{}, "", fmt.Errorf("%w: want \"unix:user\" with a user of 1 to %d bytes", ErrUsername, MaxUser)
	}
	unix, err := strconv.ParseUint(stamp, 10, 40) // 40 bits of seconds: 34,000 years
	if err != nil {
		return time.Time{}, "", fmt.Errorf("%w: the part before the colon is not a time in Unix seconds", ErrUsername)
	}
	return time.Unix(int64(unix), 0), user, nil
}
