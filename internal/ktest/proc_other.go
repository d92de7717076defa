//go:build !unix

package ktest

import (
	"errors"
	"os"
)

// There is no polite way to stop a process and none to pause it here.
var (
	signalStop   os.Signal = os.Kill
	signalPause  os.Signal = unsupportedSignal{}
	signalResume os.Signal = unsupportedSignal{}
)

// unsupportedSignal makes os.Process.Signal return an error.
type unsupportedSignal struct{}

func (unsupportedSignal) String() string { return "unsupported" }
func (unsupportedSignal) Signal()        {}

var errLocked = errors.New("locked by another process")

// lock does nothing: parallel test binaries are not guarded on this system.
func lock(*os.File) error { return nil }

func tryLock(*os.File) error { return nil }
