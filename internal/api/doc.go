// Package api serves the state of the replicators, and takes decisions about
// them, as JSON over HTTP. It owns the routes, their JSON shapes, the listener and
// the table that maps error codes to HTTP statuses and exit codes.
//
// It promises that every error is an RFC 9457 problem with a stable code, that
// shapes only grow, and that a web page of another origin can neither read nor
// change anything: browsers' cross-origin requests are refused, and on loopback
// so are host names that are not the server's (DNS rebinding).
//
// It never talks to a Kafka cluster: what it says and does is the Service's.
//
// A Server may be used from any goroutine; Run owns the goroutines that it starts.
package api
