// SPDX-License-Identifier: Apache-2.0

package show

import (
	"slices"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/loader/status"
	"replypath/test/await"
)

// What is not there is named and warned of, without any rights and without a change.
func TestSurveyHost(t *testing.T) {
	cfg := config.Default()
	cfg.Interfaces = []config.Interface{{Name: "nosuchdevice0", NextHop: config.NextHopAuto}}
	found, warnings, err := SurveyHost(cfg)
	await.Must(t, err)
	if !strings.Contains(strings.Join(warnings, "\n"), "nosuchdevice0") {
		t.Errorf("no warning of an interface that is not there: %q", warnings)
	}
	if !slices.Equal(found.Missing, []string{"nosuchdevice0"}) || len(found.Interfaces) != 0 {
		t.Errorf("found %+v", found)
	}
	isLoopback := func(u status.Unmanaged) bool { return u == status.Unmanaged{Name: "lo", Reason: "loopback"} }
	if !slices.ContainsFunc(found.Unmanaged, isLoopback) {
		t.Errorf("lo is not among %+v", found.Unmanaged)
	}
}
