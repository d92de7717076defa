package replicate

import "testing"

// TestAsk_LittleIsReadForNothing: a broker that holds batches of one size cuts
// little off the last one.
func TestAsk_LittleIsReadForNothing(t *testing.T) {
	t.Parallel()
	for _, size := range []int{70, 1 << 10, 27_300, 64 << 10, 128 << 10, 410_123, 1 << 20, 1_054_321, 3 << 20} {
		asked := int(ask(size, 1))
		if whole := asked / size; whole < 1 || asked-whole*size > asked/8+1 {
			t.Errorf("batches of %d bytes: %d whole ones in %d bytes", size, whole, asked)
		}
		if asked < 900<<10 || asked > partitionBuffer {
			t.Errorf("batches of %d bytes: %d bytes are asked for", size, asked)
		}
	}
	if ask(0, 1) != fetchPartitionBytes || ask(100<<20, 1) != partitionBuffer {
		t.Error("of batches of unknown or boundless size, other than bounded amounts are asked for")
	}
	for n, want := range map[int]int{1: 1 << 20, 4: 1 << 20, 6: 4 << 20 / 6, 16: 256 << 10, 10_000: 256 << 10} {
		if got := int(ask(1<<10, n)); got > want+1<<10 || got < want-1<<10 {
			t.Errorf("%d bytes are asked for of each of %d partitions, want about %d", got, n, want)
		}
	}
}
