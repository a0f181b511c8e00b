//go:build !linux

package netnstests

import (
	"runtime"
	"testing"
)

func TestNeedsLinux(t *testing.T) {
	t.Skipf("SKIPPED: the laboratory is made of Linux network namespaces; this is %s", runtime.GOOS)
}
