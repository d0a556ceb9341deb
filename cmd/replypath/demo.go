// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/demo"
)

func newDemo(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show on a network of its own what replypath does",
		Long: `Build two servers with two interfaces each, and routers between them, in network
namespaces; show replies leaving by the wrong interface, turn replypath on, show
them mended, and clean up. It takes a few seconds, needs root and nothing else,
and touches nothing of this host: its pins, too, are on a file system of its own,
whatever --pin-dir says.

Exit code 0 only if the wrong replies and the right ones were really seen.`,
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return demo.Run(c.Context(), a.Stdout) },
	}
}
