// Package seeded holds the mistakes that the engine can be built with, so that
// tests can prove that each of them is found. A mistake is one branch beside the
// correct line, named; Bug says whether it is made.
//
// It promises that a build without the tag seededbugs makes none of them and
// pays nothing for them: Bug is inlined as a constant then, and the compiler
// leaves the branches out. With the tag, the environment variable ANABRANCH_SEEDED_BUG
// names the one mistake that a process makes.
//
// It owns the list of the mistakes. It never changes its mind while a process
// runs, and may be used from any goroutine.
package seeded
