// Package bugs proves that the tests find what they are for: it builds the
// engine with each of the mistakes of package seeded in turn, runs the cheapest
// test that should notice, and fails when that test passes. Each of these tests
// must pass without a mistake, and must say of a mistake what is wrong.
//
// Everything here is a test and needs the build tag seededbugs: make bugs. The
// table of docs/seeded-bugs.md is what it prints.
package bugs
