package kclient

import (
	"net"
	"syscall"
)

// lowWater has the kernel wake a reader only when so many bytes are there
// (SO_RCVLOWAT): an answer of megabytes comes in pieces of some ten kilobytes,
// and a wake-up for each costs more than the copying. It is a hint; an error
// leaves things as they are.
func lowWater(c net.Conn, bytes int) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	})
}
