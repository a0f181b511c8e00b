//go:build !linux

package server

import (
	"errors"
	"net"
)

// askForPacketInfo is not to be had here: the system picks the address that an
// answer leaves from.
func askForPacketInfo(*net.UDPConn) error { return errors.ErrUnsupported }
