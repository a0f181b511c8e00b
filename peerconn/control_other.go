//go:build !linux

package peerconn

import "net/netip"

// Segmentation offload and a time to live per datagram are used on Linux only.

func segmentSize([]byte) int { return 0 }

func segmentControl(int) []byte { return nil }

const canSetTTL = false

func ttlControl(int, netip.Addr) []byte { return nil }

func offloadFailed(error) bool { return false }
