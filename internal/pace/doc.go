// Package pace says how many bytes a second may be moved now: a schedule of
// limits by the clock on the wall, and a bucket that keeps to it. It promises that
// no more is allowed over any span of time than the limits of the span and 400 ms of
// the highest, plus what was already moved when it was told. It never waits, and starts no goroutine.
package pace
