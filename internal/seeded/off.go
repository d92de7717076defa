//go:build !seededbugs

package seeded

// Bug reports whether this process makes the mistake of that name. It is small
// enough to be inlined everywhere, so nothing is left of the branch.
func Bug(string) bool { return false }
