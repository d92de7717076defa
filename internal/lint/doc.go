// Package lint holds the rules of the house that a general linter cannot know:
// which package may import which, how long files and functions may get, and
// what must not be in the tree. It has no code of its own: its tests read the
// repository's files, so the rules run wherever the tests run. It changes
// nothing.
package lint
