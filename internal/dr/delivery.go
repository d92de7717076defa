package dr

// Delivery is what a replicator promises about how often a record arrives.
type Delivery string

// The promises.
const (
	DeliveryExactlyOnce Delivery = "exactly_once"
	DeliveryAtLeastOnce Delivery = "at_least_once" // a record may arrive twice after a worker died or was cut off
)
