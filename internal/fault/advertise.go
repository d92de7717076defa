package fault

import "net"

// Advertise returns l with another address to show: a server that tells its
// clients the address of its listener, as an embedded broker does, then sends them
// to addr, for example a proxy's.
func Advertise(l net.Listener, addr string) net.Listener {
	return advertised{Listener: l, addr: addrText(addr)}
}

type advertised struct {
	net.Listener
	addr net.Addr
}

// Addr returns the address that is shown, not the one that is listened on.
func (a advertised) Addr() net.Addr { return a.addr }
