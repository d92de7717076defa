// Package verify says whether two clusters are equal: it reads both logs of each
// partition of a replicator in step, puts the records side by side by the offset
// map, and names those that are missing, extra, duplicated, reordered, changed or
// misplaced, with their offsets, and what cannot be judged and why.
//
// It keeps a digest of each record and never the record, so its memory does not
// grow with the logs. It only reads. What is compared is fixed when it begins:
// both clusters may be written meanwhile.
//
// compare.go and suspects.go decide, without I/O; start there.
package verify
