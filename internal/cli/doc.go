// Package cli is the command line. It owns the commands, their flags, help and
// exit codes, and asks before it does what cannot be undone.
//
// It promises that data goes to standard output and everything else to standard
// error, that every command which prints takes --output, and that an exit code
// follows from the error's code by the table of package api.
//
// It holds no logic of its own: a command calls the server, or a function of Deps.
package cli
