package main

import (
	"fmt"
	"strconv"
	"time"
)

// The results of the groups stand between these lines of the read-me.
const (
	movedBegin = "<!-- groups: written by the tool -->\n"
	movedEnd   = "<!-- end of groups -->\n"
)

func movedTable(rows []movedRow) table {
	t := table{head: []string{"", "lag", "samples", "go on at the next unread record", "read again: median", "most", "skipped: most", "without a position"}}
	for _, r := range rows {
		cells := []string{r.Contestant}
		for _, n := range []int64{r.Lag, int64(r.Samples), int64(r.Exact), r.AgainMedian, r.AgainMost, r.SkippedMost, int64(r.NoPosition)} {
			cells = append(cells, strconv.FormatInt(n, 10))
		}
		t.rows = append(t.rows, cells)
	}
	return t
}

func renderMoved(res movedResults) string {
	m := res.Machine
	return fmt.Sprintf("\nCommit %s, %s; %s, %d cores; Kafka %s, MirrorMaker 2 %s; load average %.1f before and %.1f after.\n\n%s\n",
		m.Commit, m.Time.Format(time.DateTime+" MST"), m.CPU, m.Cores, m.Kafka, m.MirrorMaker2, m.LoadBefore, res.LoadAfter, movedTable(res.Rows).markdown())
}
