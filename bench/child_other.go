//go:build !linux

package main

import (
	"os"
	"os/exec"
)

// What follows lets the package compile; run refuses to start without Linux.
var (
	signalStop   = os.Interrupt
	signalFreeze = os.Interrupt
	signalThaw   = os.Interrupt
)

func dieWithParent(*exec.Cmd) {}
