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

// version is set by the linker: -ldflags "-X main.version=1.2.3".
var version string

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

func versionText() string {
	return fmt.Sprintf("replypath %s (%s %s/%s)", productVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func newVersion(a *cli.App) *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cli.NoArguments,
	}
	o := cli.AddOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		document := map[string]string{
			"version": productVersion(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
		}
		return o.Print(a.Stdout, document, func(p *output.Page) { p.Line("%s", versionText()) })
	}
	return c
}
