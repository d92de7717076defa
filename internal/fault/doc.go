// Package fault makes connections fail in the ways that networks fail. It owns a
// wrapper of dialers and connections (Injector) and a TCP proxy (Proxy) that
// stands between a client and a server.
//
// It promises that a fault looks like the real one: errors are *net.OpError with
// an *os.SyscallError inside, as the kernel would give them, because a client's
// retry rules branch on those types; and that what it decides by chance follows
// from the seed and from the history of each connection alone, not from the
// scheduling of goroutines.
//
// It never changes or reorders the bytes that it passes on, and never loses some
// in the middle of a stream that goes on: TCP does not either.
//
// An Injector may be used from any goroutine. A Proxy's methods too; Run owns its
// goroutines.
package fault
