package replicate

// SlotOf tells the tests outside the package which slot a source partition has,
// of as many slots as there are.
func SlotOf(topicID [16]byte, partition, slots int32) int32 {
	return slotOf(tp{topicID: topicID, partition: partition}, slots)
}
