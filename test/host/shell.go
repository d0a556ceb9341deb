// SPDX-License-Identifier: Apache-2.0

package host

import (
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// Shell runs commands on a host as its operator would type them, and wants that each of them succeeds.
func Shell(t testing.TB, host *topology.Host, script string) string {
	t.Helper()
	c := host.Command(await.Within(t, product.CommandTime), "sh", "-eu")
	c.Stdin = strings.NewReader(script)
	output, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %v\n%s\n%s", host.Name, err, script, output)
	}
	return string(output)
}

// Nft loads a ruleset on a host.
func Nft(t testing.TB, host *topology.Host, ruleset string) {
	t.Helper()
	c := host.Command(await.Within(t, product.CommandTime), "nft", "-f", "-")
	c.Stdin = strings.NewReader(ruleset)
	output, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("nft on %s: %v\n%s\n%s", host.Name, err, ruleset, output)
	}
}
