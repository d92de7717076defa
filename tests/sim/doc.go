// Package sim runs replicators through scenarios of faults. A scenario is a
// script: a file of testdata, or what a seed makes. The same scenarios run in
// three harnesses: on fake Kafka in fake time, where a minute takes a moment, on
// the broker model of kmodel in fake time, and on real Apache Kafka. At the end
// the validators of ktest compare what every cluster holds with the history of
// what was written, for both isolation levels.
//
// No partition may halt but those that the script expects, with the code, the
// range of offsets and the lost records that it says. What a fault takes from a
// log, or a halt from a target, must be missing in one piece at the right place.
//
// kfake hides hazards, which the model and real clusters show: it fences a
// producer on all partitions at once where a broker learns an epoch partition by
// partition, it writes the markers of a transaction before it answers EndTxn, it
// never forgets a producer, it does not look into a batch, it never returns a
// part of a batch, never truncates a log and never answers with a diverging
// epoch. A clean run there says that the engine's reactions to time, networks and
// take-overs fit together, and not that a broker agrees.
//
// A seed decides the scenario, the load and the faults. It does not decide how
// the runtime schedules goroutines, so a seed that failed may have to be run
// several times before it fails again. A seed that fails prints itself as a
// script.
//
// Everything but simrun is a test; the package owns no product code. To run more
// seeds: make sim SEEDS=1000.
package sim
