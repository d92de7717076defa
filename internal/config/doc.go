// Package config owns the configuration file: its keys, defaults, strict
// loading and validation.
//
// It promises that a file is either loaded whole or refused with every problem
// listed, each with its line and path; that secrets come from the environment
// or from other files only and are never shown; and that two workers which load
// the same settings of a replicator compute the same digest.
//
// It never contacts a cluster and never writes. Engines do not import it: the
// composition root turns a Config into their options.
//
// A loaded Config is read-only and may be read from any goroutine.
package config
