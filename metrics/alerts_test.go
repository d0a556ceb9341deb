// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os/exec"
	"testing"
)

// The alerts of docs/prometheus-alerts.yaml fire when they should.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("promtool is missing; it comes with Debian's package prometheus: %v", err)
	}
	if out, err := exec.Command(promtool, "test", "rules", "testdata/alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
