package ktest

import (
	"bytes"
	"fmt"
	"text/tabwriter"
)

// View is what one kind of reader sees on one side of a pair of clusters.
type View struct {
	Side   string
	Reader Isolation
}

// Views are those of a pair whose sides are called a and b.
func Views() []View {
	return []View{{"a", ReadCommitted}, {"a", ReadUncommitted}, {"b", ReadCommitted}, {"b", ReadUncommitted}}
}

// Row is the verdict on what one kind of reader sees of a topic on one side.
type Row struct {
	Topic string
	View
	Records, Kills, Restarts int
	Found                    map[Kind]int
}

// Judge holds what all Views see of a topic to the history.
func Judge(h History, topic string, logs map[View]*Log) (rows []Row, bad []Violation) {
	for _, v := range Views() {
		log := logs[v]
		vs := Check(h, v.Side, log)
		if h.Compacted[topic] {
			vs = append(vs, CheckLatest(h, log)...)
		} else if v.Reader == ReadUncommitted {
			vs = append(vs, CheckGaps(log)...)
		}
		if v.Reader == ReadUncommitted {
			vs = append(vs, CheckEpochs(log)...)
		}
		r := Row{Topic: topic, View: v, Records: len(log.Records()), Found: map[Kind]int{}}
		for _, x := range vs {
			r.Found[x.Kind]++
			x.Detail = fmt.Sprintf("%s on %s: %s", v.Reader, v.Side, x.Detail)
			bad = append(bad, x)
		}
		if r.Records == 0 {
			bad = append(bad, Violation{Kind: BadTest, Topic: topic, Offset: -1, Detail: v.Side + " is empty"})
			r.Found[BadTest]++
		}
		rows = append(rows, r)
	}
	return rows, bad
}

// Column is one thing that a verdict counts.
type Column struct {
	Title string
	Kinds []Kind
}

// Count returns how many violations of the column were found.
func (c Column) Count(found map[Kind]int) int {
	n := 0
	for _, k := range c.Kinds {
		n += found[k]
	}
	return n
}

// Columns are all that verdicts count, and under which title.
func Columns() []Column {
	return []Column{
		{"lost", []Kind{Lost}},
		{"twice", []Kind{Doubled}},
		{"out of order", []Kind{Reordered}},
		{"changed", []Kind{Changed}},
		{"unknown", []Kind{Foreign}},
		{"aborted", []Kind{Leaked}},
		{"other partition", []Kind{Misplaced}},
		{"not the latest", []Kind{Stale}},
		{"late", []Kind{Late}},
		{"gaps", []Kind{Gap}},
		{"bad test", []Kind{BadTest, Moving}},
	}
}

// Table renders rows for people.
func Table(rows []Row) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "topic\tside\treader\trecords\tkills\tbroker restarts\t")
	for _, c := range Columns() {
		fmt.Fprintf(w, "%s\t", c.Title)
	}
	for _, r := range rows {
		fmt.Fprintf(w, "\n%s\t%s\t%s\t%d\t%d\t%d\t", r.Topic, r.Side, r.Reader, r.Records, r.Kills, r.Restarts)
		for _, c := range Columns() {
			fmt.Fprintf(w, "%d\t", c.Count(r.Found))
		}
	}
	fmt.Fprintln(w)
	_ = w.Flush() // to memory
	return b.String()
}

// Dump shows what was written to a topic and where, and who sees it.
func Dump(h History, logs map[View]*Log) []byte {
	seen := map[string]string{}
	for _, v := range Views() {
		for _, x := range logs[v].Records() {
			seen[IDOf(x)] += fmt.Sprintf(" %s %s %d@%d of (%d, %d);", v.Side, v.Reader, x.Partition, x.Offset, x.ProducerID, x.ProducerEpoch)
		}
	}
	var b bytes.Buffer
	for _, p := range h.Produced {
		if p.Record.Topic == logs[Views()[0]].Topic {
			fmt.Fprintf(&b, "%s %s %s %d@%d seen:%s\n", p.ID, p.Outcome, p.Cluster, p.Record.Partition, p.Record.Offset, seen[p.ID])
		}
	}
	for _, v := range Views() {
		for _, p := range logs[v].Partitions {
			for _, c := range p.Controls {
				fmt.Fprintf(&b, "marker %s %s %d@%d of (%d, %d)\n", v.Side, v.Reader, p.Partition, c.Offset, c.ProducerID, c.ProducerEpoch)
			}
		}
	}
	return b.Bytes()
}
