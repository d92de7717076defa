package ktest

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes the kernel kill the child when the thread that started
// it ends; see starter for what that asks of the thread.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
