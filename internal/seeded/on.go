//go:build seededbugs

package seeded

import (
	"os"
	"slices"
	"sync"
)

// Env is the environment variable that names the mistake of a process.
const Env = "ANABRANCH_SEEDED_BUG"

var chosen = sync.OnceValue(func() string {
	name := os.Getenv(Env)
	if name != "" && !slices.ContainsFunc(List(), func(m Mistake) bool { return m.Name == name }) {
		panic("seeded bug " + name + ": not in the list")
	}
	return name
})

// Bug reports whether this process makes the mistake of that name.
func Bug(name string) bool { return chosen() == name }
