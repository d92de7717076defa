package kclient

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestWords_AreThereAndBack translates every word of the protocol, known or not.
func TestWords_AreThereAndBack(t *testing.T) {
	t.Parallel()
	for code := range int8(120) {
		r := kmsg.DescribeACLsResponseResource{ResourceType: kmsg.ACLResourceType(code), ResourcePatternType: kmsg.ACLResourcePatternType(code), ResourceName: "n"}
		x := kmsg.DescribeACLsResponseResourceACL{Principal: "p", Host: "h", Operation: kmsg.ACLOperation(code), PermissionType: kmsg.ACLPermissionType(code)}
		c := ACLCreation(ACLOf(r, x))
		if int8(c.ResourceType) != code || int8(c.ResourcePatternType) != code || int8(c.Operation) != code || int8(c.PermissionType) != code || c.ResourceName != "n" || c.Principal != "p" || c.Host != "h" {
			t.Errorf("code %d comes back as %+v", code, c)
		}
	}
	for _, word := range []string{"", "NOTHING", "CODE_", "CODE_300"} {
		if code := ACLOperationCode(word); code != 0 {
			t.Errorf("%q is %d", word, code)
		}
	}
}
