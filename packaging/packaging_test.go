// SPDX-License-Identifier: Apache-2.0

// Package packaging holds what is installed beside the program.
package packaging

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"

	"replypath/loader/config"
	"replypath/test/await"
)

const sample = "replypath.yaml"

func TestSampleConfigurationSetsNothing(t *testing.T) {
	got := await.Must1[*config.Config](t)(config.Load(sample))
	await.Same(t, "what the sample sets", config.Default(), got, cmpopts.IgnoreTypes(config.Origin{}))
}

func TestSampleConfigurationShowsDefaults(t *testing.T) {
	text := await.Must1[[]byte](t)(os.ReadFile(sample))
	// A setting has no space after the "#", or two and more below another.
	settings := regexp.MustCompile(`(?m)^#([^ \n]|  )`).ReplaceAll(text, []byte("$1"))
	got := await.Must1[*config.Config](t)(config.Parse(sample, settings))
	if len(got.Interfaces) == 0 || len(got.Exclude) == 0 || len(got.Addresses) == 0 {
		t.Error("interfaces, exclude or addresses has no example")
	}
	got.Interfaces, got.Exclude, got.Addresses = nil, nil, nil
	await.Same(t, "the defaults that the sample names", config.Default(), got, cmpopts.IgnoreTypes(config.Origin{}))
}

// TestPackageVersion wants packages to be of the version that the changelog begins with, whatever git says.
func TestPackageVersion(t *testing.T) {
	text := await.Must1[[]byte](t)(os.ReadFile("../CHANGELOG.md"))
	found := regexp.MustCompile(`(?m)^## \[([0-9][0-9.]*)\]`).FindStringSubmatch(string(text))
	if found == nil {
		t.Fatal("the changelog names no version")
	}
	version := found[1]
	for _, kind := range []string{"deb", "rpm"} {
		output := run(t, "make", "--dry-run", "-C", checkout, kind)
		await.Says(t, "make "+kind, output, "main.version="+version+"'", "VERSION="+version+" ARCHITECTURE=")
	}
}

// TestThirdPartyLicenses wants the notices of what is linked into the program, Go's own among them.
func TestThirdPartyLicenses(t *testing.T) {
	notices := run(t, "sh", "-euc", `cd "$0" && packaging/third-party-licenses ./cmd/replypath`, checkout)
	await.Says(t, "notices", notices, "==== github.com/cilium/ebpf v", "==== golang.org/x/sys v", "==== Go go1", "Permission is hereby granted")
}
