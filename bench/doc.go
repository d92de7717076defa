// Command bench compares Anabranch with MirrorMaker 2, and both with what
// brokers and machine can do, on two real Kafka clusters in one run.
//
// It owns the method (what is measured, from when to when, on which data) and
// the results in bench/results and bench/README.md. It promises that all
// contestants are measured the same way, one at a time, interleaved in rounds,
// and that every process, topic and directory it made is gone when it ends.
//
// It never compares figures of different runs except as ratios, and never
// writes results of a quick run over those of a full one.
//
// It needs Linux: processor time and memory come from /proc.
package main
