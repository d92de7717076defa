// Package fence takes the clients' right to write away on one cluster, proves
// that it is gone, and gives it back.
//
// It promises that a Plan is all that is needed to undo it, from any process and
// after a kill at any moment: it is data, made before anything is changed. Undo
// gives back the rules that were there and removes only those that the fence
// made. At no moment do the replicators' own principals lose their right to
// write, and nobody loses any other right. Foreign topics stay as they are: a
// rule that covers them too is not removed, what it grants is denied on the
// pair's topics alone.
//
// A fence by rules binds those whom rules bind. Super users, and clusters without
// an authorizer, need a hook or somebody's word. So Prove believes nothing that
// was ordered: it asks every broker, tries to write as a client, and looks at the
// ends of the logs. What it cannot find out keeps the proof open.
//
// It never writes a record, except the markers of transactions that AbortOpen is
// told to end. It keeps nothing itself: plans belong into the journal of a run.
//
// Methods may be called from any goroutine; Apply and Undo from one process at a
// time.
package fence
