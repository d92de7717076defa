package cli

import (
	"slices"
	"strings"

	"github.com/anabranch/anabranch/internal/cli/out"
	"github.com/anabranch/anabranch/internal/dr"
)

// groupAdviceText says once for each state of the group's partitions what to do
// about it, the worst first.
func groupAdviceText(pg *out.Page, st dr.GroupStatus) {
	states := groupStates()
	slices.Reverse(states)
	for _, state := range states {
		a := groupAdvice(dr.GroupState(state), st.Replicator, st.Group)
		if a.say == "" || !slices.ContainsFunc(st.Partitions, func(p dr.GroupPartition) bool { return string(p.State) == state }) {
			continue
		}
		pg.Line("")
		pg.Line("%s: %s", state, a.say)
		for _, c := range a.choices {
			pg.Line("  %s", c.command)
			pg.Line("      %s", c.means)
		}
	}
}

// groupAdvice returns what to do about a state; nothing for one that is well.
func groupAdvice(state dr.GroupState, replicator, group string) advice {
	switch state {
	case dr.GroupBehind:
		return advice{"A consumer that starts on the target reads some records again, and skips none. It becomes exact by itself where it can.", nil}
	case dr.GroupAhead:
		return advice{"The group has read records which are not copied yet. Its position on the target follows the copy.", []choice{
			{"anabranch replicator describe " + replicator, "shows how far the copy is"},
		}}
	case dr.GroupActive:
		return advice{"The group runs on the target, and its position there is its own. If it should not run there, stop it: the next round writes the position.", nil}
	case dr.GroupHeld:
		return advice{"Somebody else committed on the target: a consumer that ran there, or another tool. Compare CURRENT-OFFSET and TARGET-OFFSET. If the source's position is the right one:", []choice{
			{"anabranch group adopt " + shellWord(group) + " --replicator " + replicator, "lets the source's position replace the target's"},
		}}
	case dr.GroupUnmapped:
		return advice{"Nothing is written where a record might be skipped. The partition may not be copied yet, or was copied by another tool: see the reason.", []choice{
			{"anabranch replicator describe " + replicator, "shows the state of the partition"},
		}}
	case dr.GroupUnsupported:
		return advice{"The position of this kind of group can't be carried: see the reason. Set it by hand before its consumers start on the target.", nil}
	case dr.GroupFailed:
		return advice{"It is tried again in each round. If a permission is missing, anabranch config check FILE --connect prints the command that grants it.", nil}
	case dr.GroupSynced:
		return advice{}
	default:
		return advice{"This version knows no advice for the state; the server may be newer.", nil}
	}
}

// shellWord quotes a word for a POSIX shell where needed.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:,=/@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
