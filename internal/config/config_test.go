package config

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected files")

func load(t *testing.T, path string) (*Config, error) {
	t.Helper()
	env := map[string]string{"DR_PASSWORD": "hunter2-from-env", "WEST_BOOTSTRAP": "west.example:9094", "AWS_SECRET": "hunter2-aws", "AWS_TOKEN": "hunter2-token"}
	return Source{
		Path:      path,
		LookupEnv: func(n string) (string, bool) { v, ok := env[n]; return v, ok },
		Hostname:  func() (string, error) { return "host-1", nil },
	}.Load()
}

// fixtures copies the test files to a directory of their own and adds the
// certificates that they name, so that no private key is in the repository.
func fixtures(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"client", "other"} {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		cert, errCert := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)
		pkcs8, errKey := x509.MarshalPKCS8PrivateKey(key)
		if err := errors.Join(errCert, errKey); err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "PRIVATE KEY", pkcs8)
		write(name+".pem", "CERTIFICATE", cert)
		write("ca.pem", "CERTIFICATE", cert)
	}
	return dir
}

// text loads a file of the given content.
func text(t *testing.T, content string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "anabranch.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, path)
}

func TestLoad_MinimalFileGetsDefaults(t *testing.T) {
	t.Parallel()
	dir := fixtures(t)
	c, err := load(t, filepath.Join(dir, "issue.good.yml"))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Replicators["secondary-to-primary"]
	got := fmt.Sprintln(c.Version, c.WorkerID, c.API.Listen, c.Log, c.ReplicatorNames, c.Clusters["primary"].StateTopic,
		r.TopicNames, r.StartingPosition, r.Compression, r.TopicSettings, r.DeletedTopics, r.Forward, r.Delivery, r.Groups, r.ACLs, r.Quotas, r.MemoryBudget, r.SettingsInterval, r.DiscoveryInterval, r.SessionTimeout,
		c.Replicators["primary-to-secondary"].TopicSettings)
	want := "1 host-1-8080 127.0.0.1:8080 {info text} [primary-to-secondary secondary-to-primary] {16 0} identical earliest source own ignore native exactly_once {true [] [] 5s ignore} {true 1m0s} false 64MiB 10s 500ms 6s follow\n"
	if got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	o, ok := c.ClientOptions("secondary")
	if !ok || o.TLS.CAFile != filepath.Join(dir, "ca.pem") || o.SASL.Password.Reveal() != "hunter2-from-env" || o.Validate() != nil {
		t.Errorf("client options %+v", o)
	}
}

func TestLoad_EveryKey(t *testing.T) {
	t.Parallel()
	c, err := load(t, filepath.Join(fixtures(t), "full.good.yml"))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Replicators["east-west"]
	if at, ok := r.StartTime(); !ok || !at.Equal(time.Date(2026, 1, 31, 7, 0, 0, 0, time.UTC)) {
		t.Errorf("start time %v %v", at, ok)
	}
	if f, err := r.GroupFilter(); err != nil || !f.Match("app-1") || f.Match("app-test") || f.Match("other") || r.Groups.Deleted != dr.GroupsFollow {
		t.Errorf("groups %+v, %v", r.Groups, err)
	}
	if r := c.Replicators["east-cloud"]; r.ACLs != (ACLs{Interval: Duration(5 * time.Minute)}) || !r.Quotas {
		t.Errorf("access rules %+v, quotas %v", r.ACLs, r.Quotas)
	}
	if r.Description != "costs ${env:X}" || r.MemoryBudget != 128<<20 || r.TopicSettings != dr.SettingsOwn {
		t.Errorf("replicator %+v", r)
	}
	if got := c.Clusters["west"].BootstrapServers[0]; got != "west.example:9094" {
		t.Errorf("bootstrap %s", got)
	}
	if c.Clusters["west"].SASL.OAuth.ClientSecret.Reveal() != "hunter2-from-file" || c.API.Token.Reveal() != "0123456789abcdef0123" {
		t.Error("secrets from files are wrong")
	}
	// Each key of the types is set in this file or has a default, so that a
	// key which the decoder forgets is seen.
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range allKeys(reflect.TypeFor[Config]()) {
		if key != "username" && key != "password" && key != "credentials_file" && key != "profile" && key != "insecure_skip_verify" && !strings.Contains(string(raw), `"`+key+`"`) {
			t.Errorf("key %s is not in the loaded file", key)
		}
	}
	for _, shown := range []string{string(raw), fmt.Sprintf("%+v %#v", c, c), fmt.Sprintf("%+v", c.Redacted())} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, "0123456789abcdef0123") {
			t.Errorf("a secret is shown: %s", shown)
		}
	}
	if red := c.Redacted(); red.Clusters["west"].SASL.OAuth.ClientSecret.Reveal() != "<redacted>" || red.API.Token.Reveal() != "<redacted>" || c.API.Token.Reveal() == "<redacted>" {
		t.Error("Redacted keeps a secret, or changes the original")
	}
}

func allKeys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == secretType {
		return nil
	}
	var out []string
	keys, index := fields(t)
	for _, k := range keys {
		out = append(append(out, k), allKeys(t.Field(index[k]).Type)...)
	}
	return out
}

// Each rejected file has what it must say, all of it and nothing else, in the
// file of the same name that ends in .txt.
func TestLoad_ListsEveryProblem(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.bad.yml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no files")
	}
	dir := fixtures(t)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			c, err := load(t, filepath.Join(dir, filepath.Base(f)))
			if c != nil || dr.CodeOf(err) != dr.CodeConfig {
				t.Fatalf("got %v and %v", c, err)
			}
			p, ok := errors.AsType[*ProblemsError](err)
			if !ok {
				t.Fatalf("no *ProblemsError in %T", err)
			}
			if strings.Contains(err.Error(), "in-the-clear") {
				t.Error("a secret is shown")
			}
			got := strings.ReplaceAll(p.Error(), dir+"/", "") + "\n"
			golden := strings.TrimSuffix(f, ".yml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("problems (-want +got):\n%s", d)
			}
		})
	}
}

func TestPairings_SettingsOwners(t *testing.T) {
	t.Parallel()
	const head = "clusters:\n  a: {bootstrap_servers: [\"a:1\"]}\n  b: {bootstrap_servers: [\"b:1\"]}\n  c: {bootstrap_servers: [\"c:1\"]}\nreplicators:\n"
	for _, tt := range []struct {
		name, reps string
		want       string // replicators that follow
	}{
		{"pair", "  x: {source: a, target: b}\n  y: {source: b, target: a}\n", "x"},
		{"pair, second says follow", "  x: {source: a, target: b}\n  y: {source: b, target: a, topic_settings: follow}\n", "y"},
		{"pair, first says own", "  x: {source: a, target: b, topic_settings: own}\n  y: {source: b, target: a}\n", "y"},
		{"pair, other topics", "  x: {source: a, target: b, topics: {include: [\"x.*\"]}}\n  y: {source: b, target: a, topics: {include: [\"y.*\"]}}\n", "x y"},
		{"pair, prefixed", "  x: {source: a, target: b, topic_names: prefixed, topics: {include: [\"x.*\"]}}\n  y: {source: b, target: a, topic_names: prefixed, topics: {include: [\"x.*\"]}}\n", "x y"},
		{"ring", "  x: {source: a, target: b}\n  y: {source: b, target: c}\n  z: {source: c, target: a}\n", "x y"},
		{"mesh", "  ab: {source: a, target: b}\n  ba: {source: b, target: a}\n  ac: {source: a, target: c}\n  ca: {source: c, target: a}\n  bc: {source: b, target: c}\n  cb: {source: c, target: b}\n", "ab ac"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := text(t, head+tt.reps)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range c.ReplicatorNames {
				if c.Replicators[n].TopicSettings == dr.SettingsFollow {
					got = append(got, n)
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("followers %v, want %s", got, tt.want)
			}
		})
	}
}

func TestCommon_FindsAName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b Topics
		want string
	}{
		{Topics{}, Topics{}, "a"},
		{Topics{Include: []string{"orders.*"}}, Topics{Include: []string{".*-eu"}}, "orders-eu"},
		{Topics{Include: []string{"orders"}}, Topics{Include: []string{"payments"}}, ""},
		{Topics{Include: []string{"o|p"}}, Topics{Include: []string{"pq|p"}}, "p"},
		{Topics{Include: []string{"orders.*"}}, Topics{Exclude: []string{"orders.*"}}, ""},
		{Topics{Include: []string{"orders.+"}}, Topics{Exclude: []string{"orders[a-z0-9_-].*"}}, "orders."},
		{Topics{Include: []string{`__.*`}}, Topics{}, ""},
		{Topics{Include: []string{`__anabranch.*`}}, Topics{Include: []string{`__.*`}}, ""},
		{Topics{Include: []string{`a\b.*`}}, Topics{Include: []string{`a.+`}}, "a-"},
		{Topics{Include: []string{`(?i)ORDERS`}}, Topics{Include: []string{`or.*`}}, "orders"},
		{Topics{Include: []string{`\Qa.b`}}, Topics{Include: []string{`a.b`}}, "a.b"},
	} {
		if got := common(selected(tt.a), selected(tt.b)); got != tt.want {
			t.Errorf("%v and %v: %q, want %q", tt.a, tt.b, got, tt.want)
		}
		if tt.want == "" {
			continue
		}
		for _, x := range []Topics{tt.a, tt.b} {
			f, err := dr.NewTopicFilter(x.Include, x.Exclude)
			if err != nil || !f.Match(tt.want) {
				t.Errorf("the filter of %v does not select %q (%v)", x, tt.want, err)
			}
		}
	}
}

func TestDigest_IsOfTheEffectiveSettings(t *testing.T) {
	t.Parallel()
	const file = `
version: %d
clusters:
  a: {bootstrap_servers: ["%s:1"]}
  b: {bootstrap_servers: ["b:1"], sasl: {mechanism: PLAIN, username: u, password: "${env:DR_PASSWORD}"}}
replicators:
  x: {source: a, target: b, topics: {include: [%s]}%s}
`
	get := func(version int, host, include, more string) *Config {
		c, err := text(t, fmt.Sprintf(file, version, host, include, more))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := get(1, "h1", `"p", "q"`, "")
	for _, same := range []*Config{
		get(2, "h1", `"p", "q"`, ""), get(1, "h2", `"p", "q"`, ""), get(1, "h1", `"q", "p"`, ""),
		get(1, "h1", `"p", "q"`, ", memory_budget: 65536KiB, topic_settings: follow, delivery: exactly_once"),
		get(1, "h1", `"p", "q"`, ", groups: {enabled: true, include: [], sync_interval: 5000ms}"),
	} {
		if d := Diff(base.Content("x"), same.Content("x")); len(d) > 0 || base.Digest("x") != same.Digest("x") {
			t.Errorf("differs: %v", d)
		}
	}
	other := get(1, "h1", `"p", "r"`, ", compression: zstd")
	want := []string{`compression: "source" -> "zstd"`, `topics.include: ["p","q"] -> ["p","r"]`}
	if d := cmp.Diff(want, Diff(base.Content("x"), other.Content("x"))); d != "" || base.Digest("x") == other.Digest("x") {
		t.Errorf("difference (-want +got):\n%s", d)
	}
	weaker := get(1, "h1", `"p", "q"`, ", delivery: at_least_once")
	if d := cmp.Diff([]string{`delivery: (not set) -> "at_least_once"`}, Diff(base.Content("x"), weaker.Content("x"))); d != "" || base.Digest("x") == weaker.Digest("x") {
		t.Errorf("difference (-want +got):\n%s", d)
	}
	some := get(1, "h1", `"p", "q"`, `, groups: {include: ["b", "a"]}`)
	want = []string{`groups.include: ["a","b"] -> (not set)`}
	if d := cmp.Diff(want, Diff(some.Content("x"), get(1, "h1", `"p", "q"`, ", groups: {enabled: true, sync_interval: 6s}").Content("x"))[:1]); d != "" {
		t.Errorf("difference (-want +got):\n%s", d)
	}
	if off := get(1, "h1", `"p", "q"`, ", groups: {enabled: false}"); off.Digest("x") == base.Digest("x") {
		t.Error("workers agree although one carries no groups")
	}
	if same := get(1, "h1", `"p", "q"`, `, groups: {include: ["a", "b", "a"]}`); same.Digest("x") != some.Digest("x") {
		t.Error("the order of the patterns of groups matters")
	}
	rules := get(1, "h1", `"p", "q"`, ", acls: {enabled: false}, quotas: true")
	want = []string{"acls.enabled: (not set) -> false", `acls.interval: (not set) -> "1m0s"`, "quotas: (not set) -> true"}
	if d := cmp.Diff(want, Diff(base.Content("x"), rules.Content("x"))); d != "" {
		t.Errorf("difference (-want +got):\n%s", d)
	}
	// A newer program must not disagree with an older one about a file that
	// does not name the key.
	for _, key := range []string{"delivery", "groups", "acls", "quotas"} {
		if strings.Contains(string(base.Content("x")), key) {
			t.Errorf("the content names the default of %s: %s", key, base.Content("x"))
		}
	}
	if strings.Contains(string(base.Content("x")), "hunter2") {
		t.Error("the content shows a secret")
	}
	if base.Content("none") != nil {
		t.Error("content of an unknown replicator")
	}
}

func TestSchema_IsCommitted(t *testing.T) {
	t.Parallel()
	const path = "../../docs/config.schema.json"
	got := Schema()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("docs/config.schema.json is not up to date (run this test with -update):\n%s", d)
	}
	// Every key has a text.
	var s struct {
		Properties map[string]any
		Defs       map[string]struct {
			Properties map[string]struct{ Description string }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(got, &s); err != nil || len(s.Properties) != 7 || len(s.Defs) < 8 {
		t.Fatalf("%v: %d properties, %d definitions", err, len(s.Properties), len(s.Defs))
	}
	for name, def := range s.Defs {
		for key, p := range def.Properties {
			if p.Description == "" {
				t.Errorf("%s.%s has no description", name, key)
			}
		}
	}
}

// The documents hold examples and name every key.
func TestDocs_ExamplesLoad(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	for _, key := range allKeys(reflect.TypeFor[Config]()) {
		if !strings.Contains(doc, "`"+key+"`") {
			t.Errorf("docs/configuration.md does not name the key %s", key)
		}
	}
	pairs, err := os.ReadFile("../../docs/pairs.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := fixtures(t)
	blocks := strings.Split(doc+string(pairs), "```yaml\n")[1:]
	if len(blocks) < 6 {
		t.Errorf("%d examples", len(blocks))
	}
	for i, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		path := filepath.Join(dir, fmt.Sprintf("example-%d.yaml", i+1))
		if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := load(t, path); err != nil {
			t.Errorf("example %d: %v\n%s", i+1, err, b)
		}
	}
}

func TestSize_RoundTrips(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"64MiB": "64MiB", "65536 KiB": "64MiB", "1GB": "1000000000B", "1024": "1KiB", "0": "0B", "1.5MiB": "", "-1B": "", "MiB": "", "9999999999GiB": "", "99999999999999999999": ""} {
		got, err := ParseSize(in)
		if (err != nil) != (want == "") || (err == nil && got.String() != want) {
			t.Errorf("%s: %s, %v, want %q", in, got, err, want)
		}
	}
}

// Whatever the file holds, loading ends with a configuration or with problems.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"clusters: {a: {bootstrap_servers: [\"a:1\"]}}\n", "a: &x [*x]\n", "<<: {version: 1}\n", "replicators: {x: {source: a, target: b, topics: {include: [\"(\"]}}}", "? [a]\n: b\n", "version: ${env:X"} {
		f.Add(seed)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "anabranch.yaml")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Source{Path: path, LookupEnv: func(string) (string, bool) { return "", false }}.Load()
		if p, ok := errors.AsType[*ProblemsError](err); (c == nil) == (err == nil) || (err != nil && (!ok || len(p.List) == 0)) {
			t.Errorf("%v, %v", c, err)
		}
	})
}

func TestReplicator_SelectsPrefix(t *testing.T) {
	t.Parallel()
	r := Replicator{Topics: Topics{Include: []string{"orders-.*", "audit"}, Exclude: []string{"orders-tmp.*"}}}
	for prefix, want := range map[string]bool{
		"": true, "ord": true, "orders-": true, "orders-eu": true, "audit": true, "audits": false, "pay": false, "orders-tmp": false, "orders-tm": true, "__anabranch": false,
	} {
		if got := r.SelectsPrefix(prefix); got != want {
			t.Errorf("%q: %v", prefix, got)
		}
	}
}
