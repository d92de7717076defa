package kclient

import "strings"

// Principal returns the name that the brokers see, as far as the options tell
// it. Brokers may map names; the authentication of AWS and of token servers
// gives names that only they know: "User:<principal>" then.
func Principal(o Options) string {
	switch s := o.SASL; {
	case s != nil && s.Username != "":
		return "User:" + s.Username
	case s != nil && s.OAuth.ClientID != "":
		return "User:" + s.OAuth.ClientID
	case s != nil:
		return "User:<principal>"
	case o.TLS != nil && o.TLS.CertFile != "":
		if pair, err := LoadKeyPair(o.TLS.CertFile, o.TLS.KeyFile); err == nil && pair.Leaf != nil {
			return "User:" + pair.Leaf.Subject.String()
		}
		return "User:<principal>"
	}
	return "User:ANONYMOUS"
}

// GrantCommand returns the kafka-acls.sh command that allows a principal some
// operations. resource is what the tool takes for it, for example "--topic",
// "orders".
func GrantCommand(o Options, principal string, ops []string, resource ...string) string {
	parts := []string{
		"kafka-acls.sh", "--bootstrap-server", QuoteShell(o.BootstrapServers[0]), "--command-config", "admin.properties",
		"--add", "--allow-principal", QuoteShell(principal),
	}
	for _, op := range ops {
		parts = append(parts, "--operation", op)
	}
	for _, word := range resource {
		parts = append(parts, QuoteShell(word))
	}
	return strings.Join(parts, " ")
}

// QuoteShell quotes s for a POSIX shell where needed.
func QuoteShell(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:,=/@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
