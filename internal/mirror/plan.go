package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
	"github.com/anabranch/anabranch/internal/seeded"
	"github.com/twmb/franz-go/pkg/kerr"
)

// view is all that a plan depends on. It is not changed by planning.
type view struct {
	filter   dr.TopicFilter
	naming   dr.Naming
	settings dr.TopicSettings
	deleted  dr.DeletePolicy

	source, target clusterView
	ledger         []Entry
	verdicts       map[[16]byte]kclient.Presence // of ids that a listing did not show

	// By topic id. Missing means not read: settings wait until they are.
	sourceSettings, targetSettings map[[16]byte]topicSettings

	refused map[[16]byte][]refusal // by source topic id: what the target said no to
	awaited map[[16]byte]struct{}  // source topic ids whose target topic was created a short time ago
	prior   map[string]TopicReport // of the plan before, by source name
}

// refusal is a setting that the target refused, with its reason.
type refusal struct {
	setting Setting
	reason  string
}

// planner builds a plan from a view. It does no I/O.
type planner struct {
	view
	byID     map[[16]byte]Entry
	openName map[string][]Entry // entries that are not deleted, by source name

	changes []Change
	reports map[string]TopicReport
}

// plan returns what is to be done and what is known of every topic.
func plan(v view) ([]Change, map[string]TopicReport) {
	p := &planner{
		view: v, byID: make(map[[16]byte]Entry, len(v.ledger)), openName: make(map[string][]Entry, len(v.ledger)),
		reports: make(map[string]TopicReport, len(v.source.topics)),
	}
	for _, e := range v.ledger {
		p.byID[e.SourceTopicID] = e
		if e.Phase != PhaseDeleted {
			p.openName[e.Source] = append(p.openName[e.Source], e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.source.topics)) {
		if v.filter.Match(name) {
			p.topic(name, v.source.topics[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.openName)) {
		if _, reported := p.reports[name]; reported || !v.filter.Match(name) {
			continue
		}
		for _, e := range p.openName[name] {
			p.vanished(e)
		}
	}
	return p.changes, p.reports
}

// topic plans one topic that the source lists.
func (p *planner) topic(name string, src topicView) {
	r := TopicReport{Name: name, Target: p.naming.Target(name), State: dr.TopicCreating, SourceTopicID: src.id, Partitions: src.partitions}
	if src.code != 0 {
		p.wait(r, "the source cluster answers: "+kerr.ErrorForCode(src.code).Error())
		return
	}
	e, known := p.byID[src.id]
	switch {
	case !known:
		if old := p.openName[name]; len(old) > 0 {
			p.sourceRecreated(r, old)
			return
		}
		p.fresh(r, src)
	case e.Phase == PhaseDeleted:
		// Ids never come back: this listing is of a broker that lags behind.
	case e.Target != r.Target:
		r.Target, r.TargetTopicID = e.Target, e.TargetTopicID
		p.halt(r, dr.HaltNames, fmt.Sprintf("the topic is replicated to %s, and topic_names now asks for %s", e.Target, p.naming.Target(name)))
	case e.Phase == PhaseCreating:
		p.fresh(r, src)
	default:
		p.existing(r, e, src)
	}
}

// sourceRecreated reports a source topic whose name belonged to other ids.
func (p *planner) sourceRecreated(r TopicReport, old []Entry) {
	for _, e := range old {
		if p.verdicts[e.SourceTopicID] != kclient.TopicGone {
			p.wait(r, "waiting for every broker of the source cluster to know the topic's new id")
			return
		}
		r.TargetTopicID = e.TargetTopicID
	}
	p.halt(r, dr.HaltSourceRecreated, "the topic was deleted and created again at the source; the target still has the old one's records")
}

// fresh plans a topic that the target does not have from us yet.
func (p *planner) fresh(r TopicReport, src topicView) {
	dst, answered := p.target.topics[r.Target]
	switch {
	case !answered:
		p.wait(r, "waiting for the target cluster")
	case dst.code == kerr.UnknownTopicOrPartition.Code:
		p.create(r, src)
	case dst.code != 0:
		p.fail(r, &topicError{operation: "DESCRIBE", topic: r.Target, cluster: onTarget, code: dst.code})
	default:
		e := Entry{SourceTopicID: src.id, Source: r.Name, Target: r.Target, TargetTopicID: dst.id, Phase: PhaseCreated}
		p.change(r, Change{Action: ActionAdopt, TargetTopicID: dst.id})
		p.existing(r, e, src)
	}
}

func (p *planner) create(r TopicReport, src topicView) {
	settings, ok := p.sourceSettings[src.id]
	_, awaited := p.awaited[src.id]
	switch {
	case awaited:
		p.wait(r, "waiting for the brokers of the target cluster to know the topic")
	case !ok:
		p.wait(r, "waiting for the topic's settings")
	case settings.err != nil:
		p.fail(r, settings.err)
	default:
		p.change(r, Change{Action: ActionCreate, Partitions: src.partitions, Settings: settingsToCreate(settings)})
		p.reports[r.Name] = r
	}
}

// existing plans a topic that the ledger says we have on the target.
func (p *planner) existing(r TopicReport, e Entry, src topicView) {
	r.TargetTopicID = e.TargetTopicID
	dst, answered := p.target.topics[e.Target]
	switch {
	case !answered:
		p.wait(r, "waiting for the target cluster")
	case dst.code == kerr.UnknownTopicOrPartition.Code && seeded.Bug("deleted-target-recreated"):
		p.create(r, src)
	case dst.code == kerr.UnknownTopicOrPartition.Code:
		switch p.verdicts[e.TargetTopicID] {
		case kclient.TopicGone:
			r.State, r.Code = dr.TopicTargetDeleted, dr.HaltTargetDeleted
			r.Reason = "the topic was deleted on the target; it is not created again by itself"
			p.reports[r.Name] = r
		default:
			p.wait(r, "waiting for every broker of the target cluster to say whether the topic exists")
		}
	case dst.code != 0:
		p.fail(r, &topicError{operation: "DESCRIBE", topic: e.Target, cluster: onTarget, code: dst.code})
	case dst.id != e.TargetTopicID:
		if p.verdicts[e.TargetTopicID] != kclient.TopicGone {
			p.wait(r, "waiting for every broker of the target cluster to know the topic's id")
			return
		}
		p.halt(r, dr.HaltTargetRecreated, "the topic was deleted and created again on the target by somebody else")
	default:
		r.State = dr.TopicRunning
		p.compare(r, src, dst)
	}
}

// compare plans the partition count and the settings of a topic that is in
// order on both sides.
func (p *planner) compare(r TopicReport, src, dst topicView) {
	switch {
	case dst.partitions < src.partitions:
		p.change(r, Change{Action: ActionGrow, Partitions: src.partitions})
	case dst.partitions > src.partitions:
		r.Drift = append(r.Drift, dr.Drift{
			Setting: "partitions", Source: strconv.Itoa(int(src.partitions)), Target: strconv.Itoa(int(dst.partitions)),
			Reason: "partitions cannot be taken away; the others stay empty until the source has as many",
		})
	}
	source, haveSource := p.sourceSettings[src.id]
	target, haveTarget := p.targetSettings[dst.id]
	switch {
	case !haveSource || !haveTarget:
		r.Drift = append(r.Drift, p.priorSettingsDrift(r.Name)...)
	case source.err != nil: // the records can follow all the same
		r.Code, r.Reason = source.err.halt(), source.err.Error()
	case target.err != nil:
		r.Code, r.Reason = target.err.halt(), target.err.Error()
	default:
		p.compareSettings(&r, source, target)
	}
	if len(r.Drift) > 0 {
		p.change(r, Change{Action: ActionDrift, Drift: r.Drift})
	}
	p.reports[r.Name] = r
}

func (p *planner) compareSettings(r *TopicReport, source, target topicSettings) {
	r.Drift = append(r.Drift, timestampDrift(source, target)...)
	var write []Setting
	for _, s := range compareSettings(source, target) {
		if p.settings == dr.SettingsOwn {
			r.Drift = append(r.Drift, driftOf(s, target, "topic_settings is own: the target keeps its settings"))
			continue
		}
		refused := slices.IndexFunc(p.refused[r.SourceTopicID], func(x refusal) bool { return x.setting.same(s) })
		if refused >= 0 {
			r.Drift = append(r.Drift, driftOf(s, target, "refused: "+p.refused[r.SourceTopicID][refused].reason))
			continue
		}
		write = append(write, s)
	}
	if len(write) > 0 {
		p.change(*r, Change{Action: ActionAlter, Settings: write})
	}
}

// priorSettingsDrift keeps what was known of the settings while they are being
// read again.
func (p *planner) priorSettingsDrift(name string) []dr.Drift {
	var out []dr.Drift
	for _, d := range p.prior[name].Drift {
		if d.Setting != "partitions" {
			out = append(out, d)
		}
	}
	return out
}

// vanished plans a topic of the ledger that the source no longer lists.
func (p *planner) vanished(e Entry) {
	r := TopicReport{Name: e.Source, Target: e.Target, State: dr.TopicRunning, SourceTopicID: e.SourceTopicID, TargetTopicID: e.TargetTopicID}
	switch p.verdicts[e.SourceTopicID] {
	case kclient.TopicDenied:
		p.fail(r, &topicError{operation: "DESCRIBE", topic: e.Source, cluster: onSource, code: kerr.TopicAuthorizationFailed.Code})
		return
	case kclient.TopicGone:
	default:
		p.wait(r, "waiting for every broker of the source cluster to say whether the topic exists")
		return
	}
	r.State, r.Reason = dr.TopicSourceDeleted, "the topic was deleted at the source; the target keeps it"
	dst, answered := p.target.topics[e.Target]
	there := answered && dst.code == 0 && dst.id == e.TargetTopicID
	switch {
	case p.verdicts[e.TargetTopicID] == kclient.TopicGone,
		e.Phase == PhaseCreating && dst.code == kerr.UnknownTopicOrPartition.Code:
		p.change(r, Change{Action: ActionForget}) // gone on both sides: nothing left to report
		return
	case p.deleted == dr.DeleteFollow && there:
		r.Reason = "the topic was deleted at the source and is being deleted on the target"
		p.change(r, Change{Action: ActionDelete})
	}
	p.reports[r.Name] = r
}

// change adds a change of r's topic.
func (p *planner) change(r TopicReport, c Change) {
	c.Source, c.Target, c.SourceTopicID = r.Name, r.Target, r.SourceTopicID
	if c.TargetTopicID == [16]byte{} {
		c.TargetTopicID = r.TargetTopicID
	}
	p.changes = append(p.changes, c)
}

// wait keeps the report of the plan before while something is not known yet.
func (p *planner) wait(r TopicReport, reason string) {
	if prior, ok := p.prior[r.Name]; ok && prior.SourceTopicID == r.SourceTopicID {
		p.reports[r.Name] = prior
		return
	}
	r.Reason = reason
	p.reports[r.Name] = r
}

func (p *planner) halt(r TopicReport, code dr.HaltCode, reason string) {
	r.State, r.Code, r.Reason = dr.TopicHalted, code, reason
	p.reports[r.Name] = r
}

// fail reports what a broker said about the topic; failures that pass by
// themselves are waited for.
func (p *planner) fail(r TopicReport, err *topicError) {
	code := err.halt()
	if code == "" {
		p.wait(r, err.Error())
		return
	}
	p.halt(r, code, err.Error())
}
