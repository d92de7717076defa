package main

import (
	"os"
	"os/exec"
	"syscall"
)

var (
	signalStop   os.Signal = syscall.SIGTERM
	signalFreeze os.Signal = syscall.SIGSTOP
	signalThaw   os.Signal = syscall.SIGCONT
)

// dieWithParent makes the kernel kill the child when the thread that started
// it ends. main holds the main thread, which lives as long as the process, and
// starts every child from there.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
