package replicate

import (
	"context"
	"encoding/json"
	"fmt"
)

// auditRecord says what the last comparison of both clusters came to.
type auditRecord struct {
	V     int             `json:"v"`
	Entry json.RawMessage `json:"entry"`
}

func keyAudit(rep string) string { return "c/audit/" + rep }

// LastAudit returns what RecordAudit kept last, nil when it has kept nothing.
func (e *Engine) LastAudit() json.RawMessage {
	rec := controlRecord[auditRecord](e, keyAudit(e.o.Name))
	if rec == nil {
		return nil
	}
	return rec.Entry
}

// RecordAudit keeps durably what a comparison of both clusters came to. What is in
// it is the business of who compares.
func (e *Engine) RecordAudit(ctx context.Context, entry json.RawMessage) error {
	if !e.reached() {
		return fmt.Errorf("replicator %s has not reached its target yet", e.o.Name)
	}
	return e.writeControl(ctx, keyAudit(e.o.Name), encode(auditRecord{V: stateVersion, Entry: entry}))
}
