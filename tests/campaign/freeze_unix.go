//go:build unix

package main

import "syscall"

// freeze stops the process as it is: it keeps what it has and does nothing.
func (p *process) freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// thaw lets a frozen process go on.
func (p *process) thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }
