// Package e2e runs the built binary between real Kafka clusters, as an operator
// would: a file, signals, the commands, the API. It owns no product code.
package e2e
