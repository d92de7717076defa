// Package obs sets up what makes the program observable: its logger, its metrics
// registry and the description of its build. It owns no state of its own and
// starts no goroutine; what it returns is handed to the components by the
// composition root, never kept in a global. All functions may be called from
// any goroutine.
package obs
