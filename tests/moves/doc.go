// Command moves proves on real Kafka what the commands that move a pair promise.
// Two clusters with an authorizer and users without special rights, workers and
// commands of the product as it is built, producers that are idempotent,
// transactional or kcat, and groups of Go clients of both protocols and of kcat.
// The active role goes forth and back under load; the active is killed, or cut
// off, and returns; the process of a command is killed; two people begin at once;
// somebody writes past the fence.
//
// What was written, what of it was acknowledged, and what each group read is
// kept, and after each move held against what both clusters hold. No code of the
// product takes part in that: it is only told what to do, and its reports are
// compared with what happened.
//
// It promises to end with an error if one record is lost, twice, elsewhere or
// unread that should not be, or if a report of the product is wrong, and to leave
// no process and no directory behind. It owns the method and the report; the
// tests beside it run a small form of it.
package main
