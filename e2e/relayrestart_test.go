package e2e

import (
	"testing"
	"time"

	"github.com/sallyport-net/sallyport/holepunch/natlab"
)

// TestRelayRestart is TestNodeRestart for a link through the node's own relay,
// which is gone with it: the link gets another allocation,
// unless it is away for longer than an idle link lives (30 s).
func TestRelayRestart(t *testing.T) { restarts(t, natlab.SiteSymmetric, 0, 3*time.Second) }
