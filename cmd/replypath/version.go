// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
)

// version and commit are set by the linker: -ldflags "-X main.version=1.2.3 -X main.commit=0123456789ab".
var version, commit string

// productVersion is what the linker set, else what the Go command knows of the
// source.
func productVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// productCommit is what the linker set, else what the Go command noted of git, "" where neither did.
func productCommit() string {
	if commit != "" {
		return commit
	}
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return ""
}

func versionText() string {
	built := fmt.Sprintf("%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	if commit := productCommit(); commit != "" {
		built = "commit " + commit + ", " + built
	}
	return fmt.Sprintf("replypath %s (%s)", productVersion(), built)
}

func newVersion(a *cli.App) *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cli.NoArguments,
	}
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		document := map[string]any{
			"version": productVersion(), "commit": nil,
			"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
		}
		if commit := productCommit(); commit != "" {
			document["commit"] = commit
		}
		return o.Print(a.Stdout, document, func(p *output.Page) { p.Line("%s", versionText()) })
	}
	return c
}
