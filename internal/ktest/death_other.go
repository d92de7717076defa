//go:build !linux

package ktest

import "os/exec"

// dieWithParent does nothing where the kernel has no parent-death signal: a
// killed test binary leaves its brokers behind.
func dieWithParent(*exec.Cmd) {}
