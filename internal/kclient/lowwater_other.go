//go:build !linux

package kclient

import "net"

// lowWater does nothing where the option is not known to help.
func lowWater(net.Conn, int) {}
