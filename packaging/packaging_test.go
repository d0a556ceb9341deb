// Package packaging holds what is installed beside the program.
package packaging

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"replypath/loader/config"
)

const sample = "replypath.yaml"

var equalPrefixes = cmpopts.EquateComparable()

func TestSampleConfigurationSetsNothing(t *testing.T) {
	got, err := config.Load(sample)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got, equalPrefixes); diff != "" {
		t.Errorf("the sample changes the defaults (-default +sample):\n%s", diff)
	}
}

func TestSampleConfigurationShowsDefaults(t *testing.T) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	// A setting has no space after the "#", or two and more below another.
	settings := regexp.MustCompile(`(?m)^#([^ \n]|  )`).ReplaceAll(text, []byte("$1"))
	got, err := config.Parse(sample, settings)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Interfaces) == 0 || len(got.Exclude) == 0 {
		t.Error("interfaces or exclude has no example")
	}
	got.Interfaces, got.Exclude = nil, nil
	if diff := cmp.Diff(config.Default(), got, equalPrefixes); diff != "" {
		t.Errorf("the sample names other defaults than the program's (-default +sample):\n%s", diff)
	}
}
