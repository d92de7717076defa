package replicate_test

import (
	"os/exec"
	"syscall"
)

// dieWithParent makes a worker process end with the test.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
