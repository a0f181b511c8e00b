package sallyport

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

const (
	pemType        = "PRIVATE KEY"
	maxKeyFileSize = 4096
)

// KeyFileError says why an identity file could not be used and, where there is
// one, the command that mends it.
type KeyFileError struct {
	Path string
	Why  string
	Fix  string // "" where there is nothing to run
	Err  error  // the cause, may be nil
}

func (e *KeyFileError) Error() string {
	msg := fmt.Sprintf("identity file %s %s", e.Path, e.Why)
	if e.Fix != "" {
		msg += ": " + e.Fix
	}
	return msg
}

// Unwrap returns the cause.
func (e *KeyFileError) Unwrap() error { return e.Err }

// LoadIdentity reads an Ed25519 private key in PKCS #8 PEM (RFC 8410), as
// [LoadOrCreateIdentity] writes it. It refuses a file that others than its
// owner may read, except on Windows, where modes say nothing. Failures are
// [*KeyFileError]; a missing file is [fs.ErrNotExist].
func LoadIdentity(path string) (*Identity, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a named pipe must not hold us up
	if err != nil {
		return nil, &KeyFileError{Path: path, Why: "cannot be opened: " + cause(err), Err: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, &KeyFileError{Path: path, Why: "cannot be examined: " + cause(err), Err: err}
	}
	if err := checkKeyFile(path, info); err != nil {
		return nil, err
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return nil, &KeyFileError{Path: path, Why: "cannot be read: " + cause(err), Err: err}
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, &KeyFileError{Path: path, Why: "holds no usable key: " + err.Error(), Err: err}
	}
	return newIdentity(key), nil
}

func checkKeyFile(path string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return &KeyFileError{Path: path, Why: "is not a regular file"}
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return &KeyFileError{Path: path, Why: fmt.Sprintf("is open to others (mode %04o)", info.Mode().Perm()), Fix: "run: chmod 600 " + path}
	case info.Size() == 0:
		return &KeyFileError{Path: path, Why: "is empty", Fix: "remove it and a new identity is made"}
	case info.Size() > maxKeyFileSize:
		return &KeyFileError{Path: path, Why: "is too large to be a key"}
	}
	return nil
}

func parseKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("want a PEM block %q", pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading PKCS #8: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("want an Ed25519 key, found %T", parsed)
	}
	return key, nil
}

// LoadOrCreateIdentity reads the identity at path, or makes one there with
// mode 0600 (and its folder with mode 0700) when there is none. The file
// appears whole or not at all; of two processes that start at once both get
// the same identity (where the file system knows hard links).
func LoadOrCreateIdentity(path string) (id *Identity, created bool, err error) {
	id, err = LoadIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, false, err
	}
	id, err = NewIdentity()
	if err != nil {
		return nil, false, err
	}
	err = id.save(path)
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		id, err = LoadIdentity(path)
		return id, false, err
	}
	if err != nil {
		return nil, false, &KeyFileError{Path: path, Why: "cannot be made: " + cause(err), Err: err}
	}
	return id, true, nil
}

// save writes the key beside path first and then gives it its name, which
// fails with fs.ErrExist where path is there already.
func (id *Identity) save(path string) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.key())
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".identity-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return publish(f.Name(), path)
}

// publish gives the file at from the name path too, unless that is taken. A
// file system without hard links gets a rename, which cannot tell.
func publish(from, path string) error {
	err := os.Link(from, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, statErr := os.Lstat(path); statErr == nil {
		return fs.ErrExist
	}
	return os.Rename(from, path)
}

// cause strips the path from a file error: the message names it already.
func cause(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		return linkErr.Err.Error()
	}
	return err.Error()
}
