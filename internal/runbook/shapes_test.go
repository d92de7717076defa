package runbook

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anabranch/anabranch/internal/dr"
)

// TestShapes freezes the records of the journal: other versions of the program
// read them.
func TestShapes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key   string
		value any
		want  string
	}{
		{
			keyEntry("p", "20261123-2017-switchover-x7k2", 3),
			entry{V: 1, Run: "20261123-2017-switchover-x7k2", Seq: 3, AtMs: 5, Kind: entryDone, Who: "ann@host", Step: "switch", Plan: json.RawMessage(`{"a":1}`), Gate: &dr.Gate{Passed: true, Value: "0 records"}, Result: json.RawMessage(`2`), Committed: true, Error: "x"},
			`c/run/p/20261123-2017-switchover-x7k2/000003 {"v":1,"run":"20261123-2017-switchover-x7k2","seq":3,"at_ms":5,"kind":"done","who":"ann@host","step":"switch","plan":{"a":1},"gate":{"passed":true,"value":"0 records"},"result":2,"committed":true,"error":"x"}`,
		},
		{
			keyEntry("p", "r", 0),
			entry{V: 1, Run: "r", Kind: entryStarted, Header: &headerRecord{Pair: "p", Kind: dr.RunSwitchover, From: dr.ClusterRef{ID: "a", Name: "west"}, To: dr.ClusterRef{ID: "b", Name: "east"}, Home: dr.ClusterRef{ID: "b", Name: "east"}, Epoch: 4, Parameters: json.RawMessage(`{}`), Steps: []stepRecord{{ID: "switch", Title: "T", PointOfNoReturn: true}}}},
			`c/run/p/r/000000 {"v":1,"run":"r","seq":0,"at_ms":0,"kind":"started","header":{"pair":"p","kind":"switchover","from":{"id":"a","name":"west"},"to":{"id":"b","name":"east"},"home":{"id":"b","name":"east"},"epoch":4,"parameters":{},"steps":[{"id":"switch","title":"T","point_of_no_return":true}]}}`,
		},
		{
			keyLock("p"),
			lockRecord{V: 1, Token: "t", Who: "ann@host", PID: 7, Run: "r", SinceMs: 1, RenewedMs: 2},
			`c/lock/p {"v":1,"token":"t","who":"ann@host","pid":7,"run":"r","since_ms":1,"renewed_ms":2}`,
		},
		{keyAsk("p", "r", "confirm"), askRecord{V: 1, By: "bob@host", AtMs: 3}, `c/ask/p/r/confirm {"v":1,"by":"bob@host","at_ms":3}`},
		{
			dr.RoleKey("p"),
			dr.Role{V: 1, Pair: "p", Epoch: 2, State: dr.RoleMoving, Active: "b", Standby: "a", Names: map[string]string{"a": "west", "b": "east"}, Retired: []string{"c"}, Run: "r", Hold: "h", By: "ann@host", AtMs: 9},
			`c/role/p {"v":1,"pair":"p","epoch":2,"state":"moving","active":"b","standby":"a","names":{"a":"west","b":"east"},"retired":["c"],"run":"r","hold":"h","by":"ann@host","at_ms":9}`,
		},
	} {
		if diff := cmp.Diff(c.want, c.key+" "+string(encode(c.value))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
