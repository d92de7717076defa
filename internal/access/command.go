package access

import (
	"strings"

	"github.com/anabranch/anabranch/internal/dr"
	"github.com/anabranch/anabranch/internal/kclient"
)

// codePrefix begins a word that stands for a code which is not known here.
const codePrefix = "CODE_"

// ruleCommand returns the kafka-acls.sh command that makes a rule, "" for a rule
// that the tool has no words for.
func ruleCommand(target kclient.Options, a dr.ACL) string {
	option := map[string]string{
		topicType: "--topic", groupType: "--group", transactionalIDType: "--transactional-id", clusterType: "--cluster",
		"DELEGATION_TOKEN": "--delegation-token", "USER": "--user-principal",
	}[a.ResourceType]
	if option == "" || strings.HasPrefix(a.Operation, codePrefix) {
		return ""
	}
	kind := strings.ToLower(a.Permission)
	words := []string{
		"kafka-acls.sh", "--bootstrap-server", target.BootstrapServers[0], "--command-config", "admin.properties",
		"--add", "--" + kind + "-principal", a.Principal,
	}
	if a.Host != wildcard {
		words = append(words, "--"+kind+"-host", a.Host)
	}
	words = append(append(words, "--operation"), toolWords([]string{a.Operation})...)
	if words = append(words, option); a.ResourceType != clusterType {
		words = append(words, a.Name)
	}
	if a.Pattern == prefixed {
		words = append(words, "--resource-pattern-type", "prefixed")
	}
	for i, w := range words {
		words[i] = kclient.QuoteShell(w)
	}
	return strings.Join(words, " ")
}

// scramCommand returns the kafka-configs.sh command that makes credentials.
func scramCommand(target kclient.Options, user string, mechanisms []string) string {
	var credentials []string
	for _, m := range mechanisms {
		credentials = append(credentials, m+"=[password=<password>]")
	}
	return strings.Join([]string{
		"kafka-configs.sh", "--bootstrap-server", kclient.QuoteShell(target.BootstrapServers[0]), "--command-config", "admin.properties",
		"--alter", "--entity-type", "users", "--entity-name", kclient.QuoteShell(user), "--add-config", kclient.QuoteShell(strings.Join(credentials, ",")),
	}, " ")
}
