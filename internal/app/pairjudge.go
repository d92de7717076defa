package app

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anabranch/anabranch/internal/config"
	"github.com/anabranch/anabranch/internal/dr"
)

// Codes of findings about pairs. Each has an entry in docs/runbooks/findings.md.
const (
	findSideUnreachable = "pair_cluster_unreachable"
	findStateUnreadable = "pair_state_unreadable"
	findNeverRan        = "pair_never_ran"
	findInitialActive   = "pair_initial_active_differs"
	findOtherCluster    = "pair_other_cluster"
	findRolesDiffer     = "pair_roles_differ"
	findFailedOver      = "pair_failed_over"
	findMoving          = "pair_move_unfinished"
	findHold            = "pair_on_hold"
	findNoWorkers       = "pair_no_workers"
	findPaused          = "pair_replicator_paused"
	findHalted          = "pair_partitions_halted"
	findNotReplicated   = "pair_topics_not_replicated"
	findPartitions      = "pair_partition_counts_differ"
	findLag             = "pair_lag"
	findNoCanary        = "pair_no_canary"
	findNoRules         = "pair_no_access_rules"
	findNoGroups        = "pair_groups_not_carried"
	findNoACLs          = "pair_acls_not_carried"
	findNeverMeasured   = "pair_never_drilled"
	findNotKnown        = "pair_copy_not_known"
	findRights          = "pair_rights_lacking"
	findMinInSync       = "pair_min_insync"
	findClocks          = "pair_clocks_differ"
	findOpened          = "pair_rules_opened" // of a run
)

// PairFindings lists the codes of all findings about pairs.
func PairFindings() []string {
	return []string{
		findSideUnreachable, findStateUnreadable, findNeverRan, findInitialActive, findOtherCluster, findRolesDiffer, findFailedOver, findMoving,
		findHold, findNoWorkers, findPaused, findHalted, findNotReplicated, findPartitions, findLag, findNoCanary, findNoRules, findNoGroups, findNoACLs, findNeverMeasured,
		findNotKnown, findRights, findMinInSync, findClocks, findOpened,
	}
}

// judge decides what a look at a pair means. It is pure.
type judge struct {
	look            pairLook
	role            dr.Role // zero: the pair never ran, as far as is known
	active, standby *sideLook
	st              dr.PairStatus
}

// judgePair turns what was seen into a status.
func judgePair(look pairLook) dr.PairStatus {
	j := judge{look: look}
	j.st = dr.PairStatus{Name: look.name, InitialActive: look.pair.InitialActive, At: look.at, Findings: []dr.Finding{}, RPO: dr.RecoveryPoint{Records: -1, Seconds: -1}}
	j.roles()
	j.sides()
	j.st.Replicators = []dr.PairReplicator{j.replicator(j.active, j.standby), j.replicator(j.standby, j.active)}
	j.recoveryPoint()
	j.runs()
	j.settings()
	rank := map[dr.Severity]int{dr.SeverityError: 0, dr.SeverityWarning: 1, dr.SeverityInfo: 2}
	slices.SortStableFunc(j.st.Findings, func(a, b dr.Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	j.st.Ready = !slices.ContainsFunc(j.st.Findings, func(f dr.Finding) bool { return f.Severity == dr.SeverityError })
	return j.st
}

func (j *judge) find(code string, severity dr.Severity, subject, fix, format string, args ...any) {
	j.st.Findings = append(j.st.Findings, dr.Finding{Code: code, Severity: severity, Subject: subject, Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (j *judge) about() string { return "pair " + j.look.name }

// roles decides which cluster is active: by the newer of both copies of the
// roles, else by the file.
func (j *judge) roles() {
	a, b := &j.look.sides[0], &j.look.sides[1]
	j.role = a.role
	if b.role.Supersedes(a.role) {
		j.role = b.role
	}
	j.active, j.standby = a, b
	if j.look.pair.InitialActive == b.cluster {
		j.active, j.standby = b, a
	}
	if j.role.IsZero() {
		switch {
		case a.roleErr != nil || b.roleErr != nil:
		case a.err == nil && b.err == nil:
			j.find(findNeverRan, dr.SeverityInfo, j.about(), "anabranch serve --config FILE", "nothing has run this pair so far; %s is active as the file says", j.active.cluster)
		case a.err == nil || b.err == nil:
			j.find(findNeverRan, dr.SeverityWarning, j.about(), "", "the cluster that answers knows no roles: %s counts as active as the file says", j.active.cluster)
		}
		return
	}
	for _, s := range []*sideLook{a, b} {
		if s.id == "" {
			continue
		}
		switch s.id {
		case j.role.Active:
			j.active, j.standby = s, other(a, b, s)
		case j.role.Standby:
			j.standby, j.active = s, other(a, b, s)
		default:
			j.find(findOtherCluster, dr.SeverityError, "cluster "+s.cluster, fmt.Sprintf("anabranch failback %s --rebuilt", j.look.name),
				"its cluster id is %s, and the roles of the pair are of %s and %s: it was rebuilt, or the addresses lead elsewhere", s.id, j.role.Active, j.role.Standby)
		}
	}
	j.st.State, j.st.Epoch, j.st.Hold = j.role.State, j.role.Epoch, j.role.Hold
	if a.role.Epoch != b.role.Epoch && a.err == nil && b.err == nil && !a.role.IsZero() && !b.role.IsZero() {
		j.find(findRolesDiffer, dr.SeverityWarning, j.about(), "anabranch run list "+j.look.name,
			"%s has the roles of epoch %d, %s those of epoch %d; the higher one counts", a.cluster, a.role.Epoch, b.cluster, b.role.Epoch)
	}
	if j.active.cluster != j.look.pair.InitialActive {
		j.find(findInitialActive, dr.SeverityInfo, j.about(), "write initial_active: "+j.active.cluster+" into the file, or leave it: it counts once",
			"the file says initial_active: %s, and %s is active since epoch %d", j.look.pair.InitialActive, j.active.cluster, j.role.Epoch)
	}
	if j.role.Hold != "" {
		j.find(findHold, dr.SeverityWarning, j.about(), "", "no move may begin: %s", j.role.Hold)
	}
	if j.role.State == dr.RoleFailedOver {
		j.find(findFailedOver, dr.SeverityError, j.about(), fmt.Sprintf("anabranch failback %s --tail append --dry-run", j.look.name),
			"%s took over without %s: nothing is copied between them before a failback", j.active.cluster, j.standby.cluster)
	}
}

func other(a, b, s *sideLook) *sideLook {
	if s == a {
		return b
	}
	return a
}

// sides says what is known of both clusters.
func (j *judge) sides() {
	j.st.Active, j.st.Standby = j.active.cluster, j.standby.cluster
	for _, s := range []struct {
		look *sideLook
		role string
		id   string // by the roles
	}{{j.active, dr.PairActive, j.role.Active}, {j.standby, dr.PairStandby, j.role.Standby}} {
		side := dr.PairSide{Cluster: s.look.cluster, ClusterID: cmp.Or(s.look.id, s.id), Role: s.role, Reachable: s.look.err == nil, RoleEpoch: s.look.role.Epoch}
		if err := s.look.err; err != nil {
			side.Error = err.Error()
			fix := "mend it"
			if s.role == dr.PairActive {
				fix = fmt.Sprintf("anabranch failover %s --dry-run", j.look.name)
			}
			j.find(findSideUnreachable, dr.SeverityError, "cluster "+s.look.cluster, fix, "the %s cluster does not answer: %s", s.role, err)
		}
		for _, err := range []error{s.look.roleErr, s.look.frontierErr, s.look.endsErr, s.look.rightsErr, s.look.settingsErr} {
			if err != nil {
				j.find(findStateUnreadable, dr.SeverityError, "cluster "+s.look.cluster, "", "%s", err)
			}
		}
		j.st.Sides = append(j.st.Sides, side)
		j.rights(s.look)
		j.inSync(s.look, s.role)
	}
}

// rights finds what the principal may not do on a cluster, and a move would need.
func (j *judge) rights(s *sideLook) {
	for _, l := range s.lacking {
		j.find(findRights, l.severity, "cluster "+s.cluster, l.command, "the principal lacks %s", l.what)
	}
}

// inSync finds topics that refuse writes which wait for all replicas: on the
// standby they would do so to clients after a move.
func (j *judge) inSync(s *sideLook, role string) {
	now, never := refusing(s.ends.replicas, s.minInSync)
	severity := dr.SeverityWarning
	if role == dr.PairStandby {
		severity = dr.SeverityError
	}
	if len(now) > 0 {
		j.find(findMinInSync, severity, "cluster "+s.cluster, "bring back the brokers that are down", "%d topics refuse writes with acks=all, fewer replicas are in sync than min.insync.replicas: %s", len(now), some(now))
	}
	if len(never) > 0 {
		j.find(findMinInSync, dr.SeverityWarning, "cluster "+s.cluster, "", "%d topics have fewer replicas than min.insync.replicas: %s", len(never), some(never))
	}
}

// replicator says what is known of the replicator from one cluster to the other.
func (j *judge) replicator(source, target *sideLook) dr.PairReplicator {
	name := config.PairReplicator(j.look.name, target.cluster)
	r := dr.PairReplicator{Name: name, Source: source.cluster, Target: target.cluster, MessageLag: -1}
	if target.err != nil || target.frontierErr != nil {
		return r
	}
	f := target.frontier
	r.Known, r.Workers, r.Paused, r.Partitions, r.AsOf = f.Source != "", len(f.Workers), f.Paused, len(f.Partitions), j.look.at
	topics := map[string]int{} // partitions that have a pipeline
	for _, p := range f.Partitions {
		if source.err != nil || source.endsErr != nil || source.ends.ids[p.Topic] == p.TopicID {
			topics[p.Topic]++
		}
		if p.Code != "" {
			r.Halted++
		}
	}
	r.Topics = len(topics)
	subject := "replicator " + name
	switch {
	case r.Workers == 0:
		j.find(findNoWorkers, dr.SeverityError, subject, "anabranch serve --config FILE", "no worker runs it")
	case r.Paused:
		j.find(findPaused, dr.SeverityError, subject, "anabranch replicator resume "+name, "it is paused")
	case !r.Known:
		j.find(findNotKnown, dr.SeverityError, subject, "wait; if it stays so: anabranch replicator describe "+name, "its workers have not said yet what they copy")
	}
	if r.Halted > 0 {
		j.find(findHalted, dr.SeverityError, subject, "anabranch replicator describe "+name, "%d of %d partitions are halted", r.Halted, r.Partitions)
	}
	if source.err == nil && source.endsErr == nil {
		r.MessageLag = lagOf(source, target)
	}
	if source.err == nil && source.endsErr == nil && r.Known {
		j.coverage(name, source, target, topics)
	}
	return r
}

// lagOf counts the offsets of the source's logs that the target is behind. What
// has no pipeline counts in full.
func lagOf(source, target *sideLook) int64 {
	at := map[string]map[int32]int64{}
	for _, p := range target.frontier.Partitions {
		if _, ok := source.ends.of(p); !ok {
			continue
		}
		if at[p.Topic] == nil {
			at[p.Topic] = map[int32]int64{}
		}
		at[p.Topic][p.Partition] = p.Position
	}
	lag := int64(0)
	for topic, ends := range source.ends.ends {
		for part, end := range ends {
			lag += max(0, end-at[topic][part])
		}
	}
	return lag
}

// coverage finds topics that are not copied as they should be. Of the way back it
// is asked for topics only that both clusters have: the standby may have others.
func (j *judge) coverage(name string, source, target *sideLook, pipelines map[string]int) {
	back := target != j.standby
	var missing, differ []string
	for topic, n := range source.ends.partitions {
		m, both := target.ends.partitions[topic]
		if back && (target.endsErr != nil || !both) {
			continue
		}
		if pipelines[topic] < n {
			missing = append(missing, topic)
			continue
		}
		if target.endsErr == nil && both && m != n && !back {
			differ = append(differ, topic)
		}
	}
	slices.Sort(missing)
	slices.Sort(differ)
	if len(missing) > 0 {
		j.find(findNotReplicated, dr.SeverityError, "replicator "+name, "anabranch replicator describe "+name, "%d topics of %s are not copied, or not in all partitions: %s", len(missing), source.cluster, some(missing))
	}
	if len(differ) > 0 {
		j.find(findPartitions, dr.SeverityError, "replicator "+name, "anabranch topic diff --replicator "+name, "%d topics have another number of partitions on %s: %s", len(differ), target.cluster, some(differ))
	}
}

// some lists the first names.
func some(names []string) string {
	const few = 5
	text := fmt.Sprint(names[:min(len(names), few)])
	if len(names) > few {
		text = text[:len(text)-1] + " ...]"
	}
	return text[1 : len(text)-1]
}

// recoveryPoint says what would be lost now.
func (j *judge) recoveryPoint() {
	lag := j.st.Replicators[0].MessageLag
	if lag < 0 {
		j.lastKnown()
		return
	}
	j.st.RPO = dr.RecoveryPoint{Records: lag, Seconds: -1, Live: true, AsOf: j.look.at}
	switch {
	case lag == 0:
		j.st.RPO.Seconds = 0
	case !j.active.oldest.IsZero():
		j.st.RPO.Seconds = max(0, j.look.at.Sub(j.active.oldest).Seconds())
	}
	if limit := int64(j.look.pair.Thresholds.MessageLag); lag > limit {
		j.find(findLag, dr.SeverityWarning, "replicator "+j.st.Replicators[0].Name, "anabranch replicator describe "+j.st.Replicators[0].Name,
			"%d records are not on %s; a switchover waits for %d or fewer", lag, j.standby.cluster, limit)
	}
}

// lastKnown says what would be lost by what the standby was told last.
func (j *judge) lastKnown() {
	r := j.look.risk[0]
	if j.active == &j.look.sides[1] {
		r = j.look.risk[1]
	}
	if r != nil && r.AgeSeconds >= 0 {
		j.st.RPO = dr.RecoveryPoint{Records: r.Records + r.Estimated, Seconds: ageOf(*r), AsOf: r.ObservedAt}
	}
}

// ageOf is how old the oldest record is now that was not copied, as far as a report
// tells: those that were seen came behind the newest that was copied, and those
// that are estimated after the observation. 0: there are none; -1: not known.
func ageOf(r dr.RiskReport) float64 {
	switch {
	case r.Records > 0 && r.Seconds > 0:
		return r.Seconds + r.AgeSeconds
	case r.Records > 0:
		return -1
	case r.Estimated > 0:
		return r.AgeSeconds
	}
	return 0
}

// drillAge is after how long a measured move is too old to count on.
const drillAge = 90 * 24 * time.Hour

// runs says what past and present runs tell.
func (j *judge) runs() {
	if err := j.look.runsErr; err != nil {
		j.find(findStateUnreadable, dr.SeverityError, j.about(), "", "%s", err)
	}
	for _, r := range j.look.runs {
		if !r.State.Over() && j.st.Run == nil {
			r.Steps = nil
			j.st.Run = &r
			fix := "anabranch run resume " + r.ID
			if r.Holder != nil {
				fix = "anabranch run describe " + r.ID
			}
			j.find(findMoving, dr.SeverityError, j.about(), fix, "the %s %s is %s", r.Kind, r.ID, r.State)
		}
		if r.State == dr.RunFinished && r.Report != nil && r.Report.Drill != nil && j.st.Drill == nil {
			d := r.Report.Drill
			j.st.Drill = &dr.DrillTime{Run: r.ID, At: r.EndedAt, RecordSeconds: d.RecordSeconds, GroupSeconds: d.GroupSeconds, ClockSeconds: d.ClockSeconds}
		}
		if r.State == dr.RunFinished && r.Report != nil && j.st.RTO == nil && r.Kind != dr.RunFailback {
			seconds := r.Report.WriteStopSeconds
			if r.Kind == dr.RunFailover {
				seconds = r.Report.Seconds
			}
			if seconds >= 0 {
				j.st.RTO = &dr.RecoveryTime{Seconds: seconds, Kind: r.Kind, Run: r.ID, At: r.EndedAt}
			}
		}
	}
	if d := j.st.Drill; d != nil && d.ClockSeconds > maxClockSkew.Seconds() {
		j.find(findClocks, dr.SeverityWarning, j.about(), "have the clocks set, then: anabranch switchover "+j.look.name+" --drill",
			"clocks of brokers and of the host of the drill %s were %.1f s apart or more", d.Run, d.ClockSeconds)
	}
	if j.role.IsZero() {
		return
	}
	recent := func(at time.Time) bool { return j.look.at.Sub(at) <= drillAge }
	if (j.st.RTO == nil || !recent(j.st.RTO.At)) && (j.st.Drill == nil || !recent(j.st.Drill.At)) {
		j.find(findNeverMeasured, dr.SeverityInfo, j.about(), "anabranch switchover "+j.look.name+" --drill", "nothing was measured in the last %d days, by a drill or a move", int(drillAge.Hours()/24))
	}
}

// settings finds what the file leaves out.
func (j *judge) settings() {
	p := j.look.pair
	for _, s := range j.look.sides {
		if s.err != nil || s.rulesErr == nil {
			continue
		}
		severity := dr.SeverityWarning
		if s.cluster == j.active.cluster {
			severity = dr.SeverityError // the next switchover would fence it
		}
		j.find(findNoRules, severity, "cluster "+s.cluster, "set fence.method of the pair to hook or manual; once: anabranch switchover "+j.look.name+" --fence manual",
			"clients can't be kept from writing by access rules: %v", s.rulesErr)
	}
	for _, c := range p.Clusters {
		if _, ok := p.Canary[c]; !ok && p.Fence.Method == config.FenceACL {
			j.find(findNoCanary, dr.SeverityInfo, "cluster "+c, "add canary."+c+" to the pair", "there are no credentials of an ordinary client: that clients can't write will be unproven")
		}
	}
	if !p.Groups.Enabled {
		j.find(findNoGroups, dr.SeverityWarning, j.about(), "set groups.enabled of the pair", "positions of consumer groups are not carried: groups would start by auto.offset.reset")
	}
	if !p.ACLs.Enabled {
		j.find(findNoACLs, dr.SeverityWarning, j.about(), "set acls.enabled of the pair", "access rules are not carried: nobody is allowed to write to the new active by a move")
	}
}
