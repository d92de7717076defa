// Package sim runs replicators through scenarios of faults, and runs the same
// scenarios in two places: on fake Kafka in fake time, where a minute takes a
// moment and seeds make new scenarios, and on real Apache Kafka. At the end the
// validators of ktest compare what every cluster holds with the history of what
// was written, for both isolation levels.
//
// The fake hides hazards, which only the real clusters show: it fences a
// producer on all partitions at once where a broker learns an epoch partition by
// partition, it writes the markers of a transaction before it answers EndTxn, it
// never forgets a producer, it does not look into a batch, it never returns a
// part of a batch, never truncates a log and never answers with a diverging
// epoch. A clean run here says that the engine's reactions to time, networks and
// take-overs fit together, and not that a broker agrees.
//
// A seed decides the scenario, the load and the faults. It does not decide how
// the runtime schedules goroutines, so a seed that failed may have to be run
// several times before it fails again.
//
// Everything here is a test; the package owns no product code. To run more
// seeds: make sim SEEDS=1000.
package sim
