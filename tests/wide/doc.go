// Command wide takes very many partitions over on real Kafka: two clusters of one
// broker each, a replicator with two worker processes of the product as it is
// built, one of which dies while records flow, and then the other one. It prints
// how long it takes until all partitions run again and until every record that
// was written meanwhile has arrived, what that costs the worker, and how large
// the state topic is. Then it looks for records that are lost, there twice, or in
// another order.
//
// The model of brokers does the same in fake time (make wide), where processors
// cost nothing. Here they do: figures hold for a machine and its load, which is
// printed with them. Nothing here is a test of go test: with 10,000 partitions it
// takes minutes, and gives each of two brokers a heap of 2 GiB.
package main
