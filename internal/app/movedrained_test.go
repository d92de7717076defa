package app

import "testing"

func TestUndrained_CountsGroupsWithMembersOnly(t *testing.T) {
	t.Parallel()
	at := func(unread ...int64) (out []standingPart) {
		for _, n := range unread {
			out = append(out, standingPart{unread: n})
		}
		return out
	}
	behind, worst := undrained([]standing{
		{group: "reads", members: true, parts: at(3, 0, 4)},
		{group: "done", members: true, parts: at(0, 0)},
		{group: "left", parts: at(100)},
	})
	if behind != 7 || len(worst) != 1 || worst[0].Subject != "group reads" || worst[0].Passed {
		t.Errorf("%d unread, %+v", behind, worst)
	}
}
