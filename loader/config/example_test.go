// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"

	"go.yaml.in/yaml/v3"
)

// The example shows every key, and sets each but the three lists to its default.
func TestExample(t *testing.T) {
	got := mustParse(t, Example)
	want := Default()
	if len(got.Interfaces) == 0 || len(got.Exclude) == 0 || len(got.Addresses) == 0 {
		t.Error("the example shows no interface, no exclusion or no address")
	}
	got.Interfaces, got.Exclude, got.Addresses = nil, nil, nil
	if diff := compare(want, got); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(Example), &keys); err != nil {
		t.Fatal(err)
	}
	for _, field := range Default().fields() {
		if keys[field.name] == nil {
			t.Errorf("the example lacks %s", field.name)
		}
	}
}
