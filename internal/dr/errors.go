package dr

import "errors"

// Code names a class of error that people and programs can branch on. Codes
// are part of the API: they are never renamed.
type Code string

// The codes. internal/cli maps each to an exit code and internal/api to an
// HTTP status.
const (
	CodeInternal     Code = "internal"     // a promise of the program itself was broken
	CodeUsage        Code = "usage"        // wrong command line or request
	CodeConfig       Code = "config"       // the configuration file is wrong
	CodeNotFound     Code = "not_found"    // no such replicator, topic, partition or group
	CodeUnreachable  Code = "unreachable"  // a cluster or the server cannot be reached
	CodeUnauthorized Code = "unauthorized" // a cluster refuses the credentials or the operation
	CodeConflict     Code = "conflict"     // the state forbids the operation now
	CodeRefused      Code = "refused"      // a gate or a safety rule said no
	CodePartial      Code = "partial"      // some of it was done, some was not
	CodeUnsupported  Code = "unsupported"  // the broker lacks what is needed
)

// Error is an error at the surface of the program. Hint is an instruction: what
// the reader should do next.
type Error struct {
	Code Code
	Hint string
	Err  error
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Hint + ")"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's chain, CodeInternal if
// there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
