//go:build !unix

package main

import "errors"

// freeze would stop the process as it is. Here it cannot be done.
func (p *process) freeze() error { return errors.ErrUnsupported }

// thaw would let a frozen process go on.
func (p *process) thaw() error { return errors.ErrUnsupported }
