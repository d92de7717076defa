package config

import (
	"encoding/json"
	"reflect"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/invopop/jsonschema"
)

// Schema returns the JSON schema of the file. It describes types and choices;
// what depends on several keys is checked by Load only.
func Schema() []byte {
	r := jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		RequiredFromJSONSchemaTags: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if t == reflect.TypeFor[dr.Secret]() {
				return &jsonschema.Schema{Type: "string", Pattern: `\$\{(env|file):[^}]+\}`}
			}
			return nil
		},
	}
	s := r.Reflect(&Config{})
	s.Title = "Configuration of Anabranch"
	name := validName.String()
	for _, key := range []string{"clusters", "replicators", "pairs"} {
		p, ok := s.Properties.Get(key)
		if !ok {
			panic("bug: the schema has no key " + key)
		}
		p.PropertyNames = &jsonschema.Schema{Pattern: name}
	}
	s.Required = []string{"clusters"}
	s.AnyOf = []*jsonschema.Schema{{Required: []string{"replicators"}}, {Required: []string{"pairs"}}}
	for def, keys := range map[string][]string{
		"Cluster":    {"bootstrap_servers"},
		"Replicator": {"source", "target"},
		"Pair":       {"clusters"},
		"SASL":       {"mechanism"},
		"OAuth":      {"token_url", "client_id", "client_secret"},
		"APITLS":     {"cert_file", "key_file"},
	} {
		s.Definitions[def].Required = keys
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("bug: marshal schema: " + err.Error())
	}
	return append(raw, '\n')
}
