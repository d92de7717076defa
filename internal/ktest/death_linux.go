package ktest

import (
	"os/exec"
	"syscall"
)

// DieWithParent makes the kernel kill the child when the thread that started
// it ends; see Starter for what that asks of the thread.
func DieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
