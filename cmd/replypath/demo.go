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
		Long: `Build a network of two servers with two interfaces each, and of routers, in network
namespaces. Show replies that leave by the wrong interface, turn replypath on, show the
right replies, and clean up. It takes a few seconds and needs only root.

It touches nothing of this host. Its pins are on a file system of its own, whatever
--pin-dir says. Exit code 0 means that it saw the wrong replies and the right ones.`,
		Args: cli.NoArguments,
		RunE: func(c *cobra.Command, _ []string) error { return demo.Run(c.Context(), a.Stdout) },
	}
}
