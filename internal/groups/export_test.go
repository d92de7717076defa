package groups

import "context"

// Round carries all groups once, as Run does again and again.
func (s *Sync) Round(ctx context.Context) error { return s.round(ctx) }
