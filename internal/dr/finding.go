package dr

// Severity says how much a finding matters.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // the replicator cannot work, or would break a promise
	SeverityWarning Severity = "warning" // it works, but someone should look
	SeverityInfo    Severity = "info"    // worth knowing
)

// Finding is a problem that a check found. It is not an error: the check itself
// went well.
type Finding struct {
	Code     string   `json:"code" yaml:"code"` // stable, snake_case; part of the API
	Severity Severity `json:"severity" yaml:"severity"`
	Subject  string   `json:"subject" yaml:"subject"` // what it is about, for example "cluster west" or "topic orders on cluster west"
	Message  string   `json:"message" yaml:"message"`
	Fix      string   `json:"fix,omitempty" yaml:"fix,omitempty"` // an instruction or a command line; empty if there is nothing to do
}
