package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"testing"

	"github.com/anabranch/anabranch/internal/kbatch"
)

// TestDigests_AreWhatTheDocumentSays makes the digest of a range of three records as
// docs/verify.md describes it, byte for byte.
func TestDigests_AreWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	list := []kbatch.Record{
		{Offset: 0, Timestamp: 258, Key: []byte("k"), Value: []byte("vv")},
		{Offset: 1, Timestamp: -1, Key: nil, Value: []byte{}},
		{Offset: 2, Timestamp: 0, Value: nil, Headers: []kbatch.RecordHeader{{Key: []byte("h"), Value: nil}, {Key: []byte(""), Value: []byte("x")}}},
	}
	forms := []string{
		"0000000000000102" + "00000001" + "6b" + "00000002" + "7676" + "00000000",
		"ffffffffffffffff" + "ffffffff" + "00000000" + "00000000",
		"0000000000000000" + "ffffffff" + "ffffffff" + "00000002" + "00000001" + "68" + "ffffffff" + "00000000" + "00000001" + "78",
	}
	whole := sha256.New()
	d := digester{seed: maphash.MakeSeed()}
	c := newComparer(bounds{0, 3, 10, 13})
	var source, target []entry
	for i, r := range list {
		raw, err := hex.DecodeString(forms[i])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		whole.Write(sum[:16])
		s, e := entry{offset: r.Offset, place: r.Offset + 10, flags: mapped}, entry{offset: r.Offset + 10, place: r.Offset, flags: mapped}
		d.digest(&s, r)
		d.digest(&e, r)
		if s.sum != digest(sum[:16]) {
			t.Errorf("record %d: %x, want %x", i, s.sum, sum[:16])
		}
		source, target = append(source, s), append(target, e)
	}
	if err := c.merge(pieces(source, 2), pieces(target, 1)); err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString(whole.Sum(nil))
	if r := c.ranges[0]; len(c.ranges) != 1 || r.SourceDigest != want || r.TargetDigest != want || r.SourceRecords != 3 || r.TargetFrom != 10 || r.TargetTo != 13 {
		t.Errorf("%+v, want digest %s", c.ranges, want)
	}
}

func TestUnlike_SaysWhatIsNotTheSame(t *testing.T) {
	t.Parallel()
	a := kbatch.Record{Timestamp: 5, Key: []byte("key"), Value: nil, Headers: []kbatch.RecordHeader{{Key: []byte("h"), Value: []byte("1")}}}
	b := kbatch.Record{Timestamp: 6, Key: []byte("kex"), Value: []byte{}, Headers: []kbatch.RecordHeader{{Key: []byte("h"), Value: []byte("2")}}}
	want := "timestamp: 5 and 6; key: from byte 2 on, of 3 and 3; value: null on one side; value of header 0: from byte 0 on, of 1 and 1"
	if got := unlike(a, b); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := unlike(a, a); got != "" {
		t.Errorf("the same record: %s", got)
	}
}
