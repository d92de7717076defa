//go:build !linux

package ktest

import "os/exec"

// DieWithParent does nothing where the kernel has no parent-death signal: a
// killed test binary leaves its brokers behind.
func DieWithParent(*exec.Cmd) {}
