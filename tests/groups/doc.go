// Command groups proves on real Kafka that consumer groups go on where they were.
// Two clusters, two worker processes of the product as it is built, and topics
// that are dense, compacted (the cleaner has run), transactional, and full of
// gaps. Many groups commit at random positions on the source, with lags from
// nothing to the whole topic, while records are written and, if it is asked for,
// workers are killed. Then each group starts on the target, and the first record
// that it reads there has to be the one that it would have read next on the
// source: key, value, headers and timestamp. Most of them read with the Go client, in
// both group protocols, some with Apache's console consumer and some with kcat.
//
// What the next record is, is read on the source by a consumer of committed
// records. No code of the product takes part in that, and none decides whether
// the two are the same: the product is only asked whether it is done.
//
// It promises to end with an error if one sample is wrong, and to leave no
// process and no directory behind. It owns the method and the report; the tests
// beside it run a small form of it.
package main
