// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"replypath/test/await"
)

// others are commands of recipes that the tests of their networks do not run, and which test is there instead.
var others = map[string]string{
	"systemctl enable --now replypath":  "TestPages runs it, for the roll-out",
	"iperf3 --server --bind 10.4.0.100": "TestConnectedWildcard asks a socket that is bound so",
}

// sources are the test files of each directory of tests but this one.
type sources map[string]string

func readTests(t *testing.T) sources {
	t.Helper()
	all := make(sources)
	for _, path := range await.Must1[[]string](t)(filepath.Glob("../*/*_test.go")) {
		if dir := filepath.Dir(path); dir != "../guide" {
			all[dir] += string(await.Must1[[]byte](t)(os.ReadFile(path)))
		}
	}
	return all
}

// run tells whether some package reads a recipe and names one of its sections.
func (all sources) run(recipe, section string) bool {
	for _, text := range all {
		if strings.Contains(text, strconv.Quote(recipe)) && strings.Contains(text, strconv.Quote(section)) {
			return true
		}
	}
	return false
}
