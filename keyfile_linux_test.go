package sallyport

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system of our own needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("sallyport-test", dir, "tmpfs", 0, options); err != nil {
		t.Skip("mounting a tmpfs is not allowed here:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error("unmounting:", err)
		}
	})
	return dir
}

func TestIdentityFileOnFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "size=64k,mode=700")
	fillDisk(t, filepath.Join(dir, "filler"))
	path := filepath.Join(dir, "identity.key")
	id, created, err := LoadOrCreateIdentity(path)
	wantError(t, err, "identity file "+path+" cannot be made: no space left on device")
	if !errors.Is(err, syscall.ENOSPC) || id != nil || created {
		t.Errorf("LoadOrCreateIdentity = %v, created %v, %v", id, created, err)
	}
	wantOnly(t, dir, "filler")

	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	if _, created, err := LoadOrCreateIdentity(path); err != nil || !created {
		t.Errorf("with space again: created %v, %v", created, err)
	}
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("filling the disk:", err)
	}
}

func TestIdentityFileInReadOnlyFolder(t *testing.T) {
	dir := mountTmpfs(t, "size=64k,mode=700")
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "identity.key"), filepath.Join(dir, "sub", "identity.key")} {
		_, _, err := LoadOrCreateIdentity(path)
		wantError(t, err, "identity file "+path+" cannot be made: read-only file system")
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("error %v is not EROFS", err)
		}
	}
}

func TestIdentityFileIsANamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	wantKeyFileError(t, path, "is not a regular file") // and does not wait for a writer
}

// An identity that is there already is never replaced.
func TestPublishNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	from, path := filepath.Join(dir, "from"), filepath.Join(dir, "identity.key")
	write(t, from, []byte("new"))
	write(t, path, []byte("old"))
	if err := publish(from, path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("publish over a file: %v, want fs.ErrExist", err)
	}
	if content, _ := os.ReadFile(path); string(content) != "old" {
		t.Errorf("the file holds %q", content)
	}
}
