package groups

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// KeyPrefix is what the keys of all records of this package begin with. They lie
// in partition 0 of the state topic of the cluster that the commits are written
// to.
const KeyPrefix = "c/group/"

// recordVersion is the version of the records' values.
const recordVersion = 1

// pagePartitions is how many partitions of a topic one record holds.
const pagePartitions = 200

// pageKey names one record: a group in some partitions of one topic.
type pageKey struct {
	replicator string
	topicID    [16]byte // of the source
	chunk      int32
	note       string // see note.go; empty: the record is that of who carries the groups
	group      string
}

func (k pageKey) String() string {
	n := strconv.Itoa(int(k.chunk))
	if k.note != "" {
		n += noteMark + k.note
	}
	return KeyPrefix + k.replicator + "/" + hex.EncodeToString(k.topicID[:]) + "/" + n + "/" + k.group
}

// parsePageKey reads a key back. The group comes last, since its name may hold
// anything.
func parsePageKey(s string) (pageKey, error) {
	rest, ok := strings.CutPrefix(s, KeyPrefix)
	parts := strings.SplitN(rest, "/", 4)
	if !ok || len(parts) != 4 || len(parts[1]) != 32 {
		return pageKey{}, fmt.Errorf("key %q is not one of a group", s)
	}
	k := pageKey{replicator: parts[0], group: parts[3]}
	if _, err := hex.Decode(k.topicID[:], []byte(parts[1])); err != nil {
		return pageKey{}, fmt.Errorf("key %q: bad topic id: %w", s, err)
	}
	number, note, marked := strings.Cut(parts[2], noteMark)
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 || marked && note == "" {
		return pageKey{}, fmt.Errorf("key %q: bad number", s)
	}
	k.note = note
	k.chunk = int32(n)
	return k, nil
}

// page is what a replicator remembers of a group in some partitions of a topic: one
// record, or what several of them say together. It is never changed once it is
// made.
type page struct {
	key      pageKey  // of the record of who carries the groups, whether it is there or not
	records  []string // keys of all that it was made of
	from     string   // id of the cluster that the replicator reads
	topic    string   // name at the source
	share    bool     // of a share group: written are start offsets
	targetID [16]byte
	parts    map[int32]*memory
}

// recordJSON is the value of a record. Offsets of vectors are in the order of
// Logs, -1 where one is not known.
type recordJSON struct {
	V          int        `json:"v"`
	Topic      string     `json:"topic"`
	Share      bool       `json:"share,omitempty"`
	From       string     `json:"source_cluster_id"`
	TargetID   string     `json:"target_id"`
	Logs       []logID    `json:"logs"` // cluster id and topic id
	Partitions []partJSON `json:"partitions"`
}

type partJSON struct {
	Partition int32   `json:"p"`
	Carried   int64   `json:"carried"`
	At        []int64 `json:"at,omitempty"`
	Written   int64   `json:"written"`
	Before    int64   `json:"before"`
	Tried     []int64 `json:"tried,omitempty"`
	Metadata  string  `json:"metadata,omitempty"`
	Resets    int32   `json:"resets,omitempty"`
	Alone     bool    `json:"alone,omitempty"`
	Exact     bool    `json:"exact,omitempty"`
	Revision  int64   `json:"revision,omitempty"`
	AtMs      int64   `json:"at_ms"`

	Cuts []cutJSON `json:"cuts,omitempty"` // that At was made in the knowledge of
}

// cutJSON says how many cuts of a log were known, by one route.
type cutJSON struct {
	Log logID  `json:"log"`
	Via string `json:"via"` // replicator, cluster id and topic id of its source
	N   int32  `json:"n"`
}

// encode returns the value of the page.
func (p *page) encode() []byte {
	r := recordJSON{V: recordVersion, Topic: p.topic, Share: p.share, From: p.from, TargetID: hex.EncodeToString(p.targetID[:])}
	for _, m := range p.parts {
		for _, c := range m.at {
			if i, found := slices.BinarySearch(r.Logs, c.log); !found {
				r.Logs = slices.Insert(r.Logs, i, c.log)
			}
		}
	}
	for n, m := range p.parts {
		pj := partJSON{
			Partition: n, Carried: m.carried, Written: m.written, Before: m.before, Tried: m.tried,
			Metadata: m.metadata, Resets: m.resets, Alone: m.alone, Exact: m.exact, Revision: m.revision, AtMs: m.atMs,
		}
		for _, c := range m.knew {
			pj.Cuts = append(pj.Cuts, cutJSON{c.log, c.via, c.n})
		}
		if len(m.at) > 0 {
			for _, id := range r.Logs {
				offset, ok := m.at.get(id)
				if !ok {
					offset = none
				}
				pj.At = append(pj.At, offset)
			}
		}
		r.Partitions = append(r.Partitions, pj)
	}
	slices.SortFunc(r.Partitions, func(a, b partJSON) int { return int(a.Partition) - int(b.Partition) })
	b, err := json.Marshal(r)
	if err != nil {
		panic("bug: encode the memory of a group: " + err.Error()) // plain structs always encode
	}
	return b
}

// decodePage reads a record.
func decodePage(key string, value []byte) (*page, error) {
	k, err := parsePageKey(key)
	if err != nil {
		return nil, err
	}
	var r recordJSON
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", key, err)
	}
	if r.V < 1 || r.V > recordVersion {
		return nil, fmt.Errorf("decode %s: version %d is not known here: a newer anabranch wrote it", key, r.V)
	}
	k.note = "" // the key of records says it
	p := &page{key: k, records: []string{key}, from: r.From, topic: r.Topic, share: r.Share, parts: make(map[int32]*memory, len(r.Partitions))}
	if len(r.TargetID) != 32 {
		return nil, fmt.Errorf("decode %s: topic id %q: want 32 hexadecimal digits", key, r.TargetID)
	}
	if _, err := hex.Decode(p.targetID[:], []byte(r.TargetID)); err != nil {
		return nil, fmt.Errorf("decode %s: topic id: %w", key, err)
	}
	if !slices.IsSorted(r.Logs) {
		return nil, fmt.Errorf("decode %s: the logs %q are not in order", key, r.Logs)
	}
	for _, pj := range r.Partitions {
		m := &memory{
			from: logOf(r.From, k.topicID), carried: pj.Carried, written: pj.Written, before: pj.Before, tried: pj.Tried,
			metadata: pj.Metadata, resets: pj.Resets, alone: pj.Alone, exact: pj.Exact, revision: pj.Revision, atMs: pj.AtMs,
		}
		if len(pj.At) > len(r.Logs) {
			return nil, fmt.Errorf("decode %s: partition %d has %d offsets for %d logs", key, pj.Partition, len(pj.At), len(r.Logs))
		}
		for _, c := range pj.Cuts {
			m.knew = append(m.knew, knownCuts{c.Log, c.Via, c.N})
		}
		for i, offset := range pj.At {
			if offset >= 0 {
				m.at = append(m.at, component{r.Logs[i], offset})
			}
		}
		p.parts[pj.Partition] = m
	}
	return p, nil
}
