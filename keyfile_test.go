package sallyport

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

func TestIdentityFileIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config", "sallyport", "identity.key")
	first, created, err := LoadOrCreateIdentity(path)
	if err != nil || !created {
		t.Fatalf("first: created %v, %v", created, err)
	}
	if runtime.GOOS != "windows" {
		wantMode(t, path, 0o600)
		wantMode(t, filepath.Dir(path), fs.ModeDir|0o700)
		wantMode(t, filepath.Dir(filepath.Dir(path)), fs.ModeDir|0o700)
	}
	second, created, err := LoadOrCreateIdentity(path)
	if err != nil || created || second.PeerID() != first.PeerID() {
		t.Errorf("second: %v, created %v, %v; want %v", second, created, err, first)
	}
	third, err := LoadIdentity(path)
	if err != nil || third.PeerID() != first.PeerID() {
		t.Errorf("LoadIdentity = %v, %v; want %v", third, err, first)
	}
	wantOnly(t, filepath.Dir(path), "identity.key")
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
	}
}

// wantOnly fails where dir holds anything else, such as a forgotten temporary
// file with a key in it.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("%s holds %v, want %v", dir, entries, want)
	}
}

func writeKey(t *testing.T, path, pemType string, key any) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An identity as `openssl genpkey -algorithm ed25519` writes it (RFC 8410
// section 10.3) is welcome.
func TestIdentityFileOfOpenSSL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	write(t, path, []byte("-----BEGIN PRIVATE KEY-----\n"+
		"MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"+
		"-----END PRIVATE KEY-----\n"))
	id, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	want := PeerID(unhex(t, "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1")) // its public key, section 10.1
	if id.PeerID() != want {
		t.Errorf("peer ID is %v, want %v", id, want)
	}
}

// A file that cannot be used is never replaced: it may be somebody's only copy.
func TestIdentityFileRefused(t *testing.T) {
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519Key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mine := testIdentity(t, 1).key()
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"empty", func(t *testing.T, path string) { write(t, path, nil) }, "is empty: remove it and a new identity is made"},
		{"garbage", func(t *testing.T, path string) { write(t, path, []byte("\x00\xffgarbage")) }, `holds no usable key: want a PEM block "PRIVATE KEY"`},
		{"garbage in PEM", func(t *testing.T, path string) {
			write(t, path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte("garbage")}))
		}, "holds no usable key: reading PKCS #8"},
		{"another PEM type", func(t *testing.T, path string) { writeKey(t, path, "OPENSSH PRIVATE KEY", mine) }, "want a PEM block"},
		{"ECDSA key", func(t *testing.T, path string) { writeKey(t, path, pemType, ecdsaKey) }, "want an Ed25519 key, found *ecdsa.PrivateKey"},
		{"X25519 key", func(t *testing.T, path string) { writeKey(t, path, pemType, x25519Key) }, "want an Ed25519 key, found *ecdh.PrivateKey"},
		{"too large", func(t *testing.T, path string) { write(t, path, make([]byte, maxKeyFileSize+1)) }, "is too large to be a key"},
		{"a folder", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
		{"folder is a file", func(t *testing.T, path string) {
			write(t, filepath.Dir(path)+".file", nil)
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Dir(path)+".file", filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}, "cannot be"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "identity.key")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			test.make(t, path)
			before, _ := os.ReadFile(path)
			wantKeyFileError(t, path, test.want)
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// wantKeyFileError asks for the identity in both ways and wants the same refusal.
func wantKeyFileError(t *testing.T, path, want string) {
	t.Helper()
	_, err := LoadIdentity(path)
	id, created, err2 := LoadOrCreateIdentity(path)
	if id != nil || created {
		t.Errorf("LoadOrCreateIdentity = %v, created %v", id, created)
	}
	for _, err := range []error{err, err2} {
		wantError(t, err, want)
		wantError(t, err, "identity file "+path+" ")
		if _, ok := errors.AsType[*KeyFileError](err); !ok {
			t.Errorf("error is a %T, want a *KeyFileError", err)
		}
	}
}

func TestIdentityFileOpenToOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes say nothing on Windows")
	}
	path := filepath.Join(t.TempDir(), "identity.key")
	want, _, err := LoadOrCreateIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	for mode, shown := range map[fs.FileMode]string{
		0o644: "mode 0644", 0o640: "mode 0640", 0o604: "mode 0604", 0o620: "mode 0620", 0o602: "mode 0602", 0o610: "mode 0610", 0o777: "mode 0777",
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		wantKeyFileError(t, path, "is open to others ("+shown+"): run: chmod 600 "+path)
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if id, err := LoadIdentity(path); err != nil || id.PeerID() != want.PeerID() {
			t.Errorf("mode %o: %v, %v", mode, id, err)
		}
	}
}

func TestIdentityFileMissing(t *testing.T) {
	for _, path := range []string{
		filepath.Join(t.TempDir(), "identity.key"),
		filepath.Join(t.TempDir(), "no", "such", "folder", "identity.key"),
	} {
		id, err := LoadIdentity(path)
		wantError(t, err, "identity file "+path+" cannot be opened: ")
		if id != nil || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("LoadIdentity = %v, %v; want fs.ErrNotExist", id, err)
		}
	}
}

func TestIdentityFileBehindDanglingLink(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.key")
	if err := os.Symlink(filepath.Join(dir, "gone"), path); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	_, created, err := LoadOrCreateIdentity(path)
	wantError(t, err, "identity file "+path+" cannot be opened: ")
	if created {
		t.Error("an identity was made in place of a link")
	}
	wantOnly(t, dir, "identity.key")
}

func TestConcurrentCreatorsGetOneIdentity(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "sub", "identity.key")
		const creators = 8
		var ids [creators]PeerID
		var made [creators]bool
		var wg sync.WaitGroup
		for i := range creators {
			wg.Go(func() {
				id, created, err := LoadOrCreateIdentity(path)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i], made[i] = id.PeerID(), created
			})
		}
		wg.Wait()
		count := 0
		for i := range creators {
			if made[i] {
				count++
			}
			if ids[i] != ids[0] || ids[i].IsZero() {
				t.Fatalf("identities differ: %v", ids)
			}
		}
		if count != 1 {
			t.Errorf("%d creators say that they made it, want 1", count)
		}
		wantOnly(t, filepath.Dir(path), "identity.key")
	}
}
