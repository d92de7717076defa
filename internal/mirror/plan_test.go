package mirror

import (
	"testing"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
)

// The ids of one topic on both clusters.
var (
	oldID, newID    = [16]byte{1}, [16]byte{2}
	copyID, otherID = [16]byte{11}, [16]byte{12}
)

// TestPlanOfIdentities goes through what the two clusters and the ledger can
// say about the ids behind one name.
func TestPlanOfIdentities(t *testing.T) {
	t.Parallel()
	entry := func(id [16]byte, phase Phase) Entry {
		return Entry{SourceTopicID: id, Source: "orders", Target: "orders", TargetTopicID: copyID, Phase: phase}
	}
	listed := func(id [16]byte) map[string]topicView {
		return map[string]topicView{"orders": {id: id, partitions: 1}}
	}
	nothing := map[string]topicView{}
	unknown := map[string]topicView{"orders": {code: kerr.UnknownTopicOrPartition.Code}}
	denied := map[string]topicView{"orders": {code: kerr.TopicAuthorizationFailed.Code}}
	gone := func(ids ...[16]byte) map[[16]byte]kclient.Presence {
		out := make(map[[16]byte]kclient.Presence)
		for _, id := range ids {
			out[id] = kclient.TopicGone
		}
		return out
	}
	none := TopicReport{}
	for _, c := range []struct {
		name           string
		ledger         []Entry
		source, target map[string]topicView
		verdicts       map[[16]byte]kclient.Presence
		deleted        dr.DeletePolicy
		actions        []Action
		want           TopicReport // only State and Code
	}{
		{
			name: "re-created at the source, and the old id is gone", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(newID), target: listed(copyID), verdicts: gone(oldID),
			want: TopicReport{State: dr.TopicHalted, Code: dr.HaltSourceRecreated},
		}, {
			name: "re-created at the source, as one broker says", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(newID), target: listed(copyID), want: TopicReport{State: dr.TopicCreating},
		}, {
			name: "a lagging broker lists an id that was dealt with", ledger: []Entry{entry(oldID, PhaseDeleted), entry(newID, PhaseCreated)},
			source: listed(oldID), target: listed(copyID), want: TopicReport{State: dr.TopicRunning},
		}, {
			name: "only a deleted entry, listed again", ledger: []Entry{entry(oldID, PhaseDeleted)},
			source: listed(oldID), target: unknown, want: none,
		}, {
			name: "the target lists another id, as one broker says", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(oldID), target: listed(otherID), want: TopicReport{State: dr.TopicCreating},
		}, {
			name: "re-created on the target", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(oldID), target: listed(otherID), verdicts: gone(copyID),
			want: TopicReport{State: dr.TopicHalted, Code: dr.HaltTargetRecreated},
		}, {
			name: "deleted on the target, as one broker says", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(oldID), target: unknown, want: TopicReport{State: dr.TopicCreating},
		}, {
			name: "not to be described on the target", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: listed(oldID), target: denied, want: TopicReport{State: dr.TopicHalted, Code: dr.HaltUnauthorized},
		}, {
			name: "not listed by the source, which may be lagging", ledger: []Entry{entry(oldID, PhaseCreated)}, deleted: dr.DeleteFollow,
			source: nothing, target: listed(copyID), want: TopicReport{State: dr.TopicRunning},
		}, {
			name: "not to be described at the source", ledger: []Entry{entry(oldID, PhaseCreated)}, deleted: dr.DeleteFollow,
			source: nothing, target: listed(copyID), verdicts: map[[16]byte]kclient.Presence{oldID: kclient.TopicDenied},
			want: TopicReport{State: dr.TopicHalted, Code: dr.HaltUnauthorized},
		}, {
			name: "deleted at the source, followed", ledger: []Entry{entry(oldID, PhaseCreated)}, deleted: dr.DeleteFollow,
			source: nothing, target: listed(copyID), verdicts: gone(oldID),
			actions: []Action{ActionDelete}, want: TopicReport{State: dr.TopicSourceDeleted},
		}, {
			name: "deleted at the source, another topic on the target", ledger: []Entry{entry(oldID, PhaseCreated)}, deleted: dr.DeleteFollow,
			source: nothing, target: listed(otherID), verdicts: gone(oldID), want: TopicReport{State: dr.TopicSourceDeleted},
		}, {
			name: "gone on both sides", ledger: []Entry{entry(oldID, PhaseCreated)},
			source: nothing, target: unknown, verdicts: gone(oldID, copyID), actions: []Action{ActionForget}, want: none,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			changes, reports := plan(view{
				ledger: c.ledger, source: clusterView{topics: c.source}, target: clusterView{topics: c.target}, verdicts: c.verdicts,
				deleted: c.deleted, settings: dr.SettingsFollow,
			})
			var actions []Action
			for _, change := range changes {
				actions = append(actions, change.Action)
			}
			got := TopicReport{State: reports["orders"].State, Code: reports["orders"].Code}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.actions, actions); diff != "" {
				t.Errorf("actions (-want +got):\n%s", diff)
			}
		})
	}
}
