package config

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// knownKeys collects the keys that Parse takes from what it offers in place of
// an unknown one.
func knownKeys(t *testing.T, prefix, before, after string) []string {
	t.Helper()
	_, err := Parse("", []byte(before+"there-is-no-such-key: 1"+after))
	if err == nil {
		t.Fatalf("an unknown key below %q is accepted", prefix)
	}
	unknown, _, _ := strings.Cut(err.Error(), "\n") // an interface lacks its name as well
	_, names, found := strings.Cut(unknown, "allowed here: ")
	if !found {
		t.Fatalf("no keys in %q", err)
	}
	var paths []string
	for _, name := range strings.Split(names, ", ") {
		paths = append(paths, prefix+name)
	}
	return paths
}

func TestReferenceIsWhatParseTakes(t *testing.T) {
	parsed := slices.Concat(
		knownKeys(t, "", "", ""),
		knownKeys(t, "interfaces[].", "interfaces: [{", "}]"),
		knownKeys(t, "exclude[].", "exclude: [{", "}]"),
		knownKeys(t, "flow_table.", "flow_table: {", "}"),
		knownKeys(t, "metrics.", "metrics: {", "}"),
		knownKeys(t, "log.", "log: {", "}"),
	)
	var described []string
	for _, key := range Reference() {
		described = append(described, key.Path)
		if key.Values == "" || key.Text == "" {
			t.Errorf("%s is not described", key.Path)
		}
	}
	slices.Sort(parsed)
	slices.Sort(described)
	if !slices.Equal(parsed, described) {
		t.Errorf("the reference describes\n%q\nbut parsed are\n%q", described, parsed)
	}
}

// The example shows every key, and sets each but the two lists to its default.
func TestExample(t *testing.T) {
	got := mustParse(t, Example)
	want := Default()
	if len(got.Interfaces) == 0 || len(got.Exclude) == 0 {
		t.Error("the example shows no interface or no exclusion")
	}
	got.Interfaces, got.Exclude = nil, nil
	if diff := compare(want, got); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(Example), &keys); err != nil {
		t.Fatal(err)
	}
	for _, key := range Reference() {
		if _, found := keys[key.Path]; !found && !strings.ContainsAny(key.Path, ".[") {
			t.Errorf("the example lacks %s", key.Path)
		}
	}
}
