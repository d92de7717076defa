// Package dr is the shared vocabulary of Anabranch: the states, views and
// settings that every layer speaks of. It owns plain types without behaviour
// beyond validation and naming, imports the standard library only, and may be
// used from any goroutine because its values are copied, never shared.
package dr
