// Package move moves the active role of a pair of clusters: switchover,
// failover, failback and drill, as recipes for the machine of package runbook.
//
// It promises the order. In a switchover clients lose the right to write to the
// old active before the new one gives it; everything that was written is copied,
// and the groups are placed, before the point of no return; and before it,
// everything that was done is undone where a step fails, also when a client
// writes past the fence. In a failover nothing needs the lost cluster; what a
// former owner of the replicator still sends cannot arrive any more before the
// groups are placed, and the groups are placed before clients come. In a failback
// no record moves before it is decided what becomes of the tail that only the
// returned cluster has.
//
// Roles change only by records that are written under the lock of the run, in
// the same write as the journal's entry about it.
//
// It touches no cluster itself: what it needs of them are the ports, which say
// what their implementations must guarantee. It starts nothing before a method
// is called; a Mover may be used from any goroutine.
package move
