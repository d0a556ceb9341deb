// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
)

var shells = []string{"bash", "fish", "zsh"}

func newCompletion(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write the completion script of a shell",
		Long: `Write the script that completes the commands, flags and values of replypath in bash,
fish or zsh. To load it at once:

  bash  source <(replypath completion bash)
  fish  replypath completion fish | source
  zsh   source <(replypath completion zsh)`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.UsageErrorf("name one shell: %s", strings.Join(shells, ", "))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return writeCompletion(c.Root(), args[0], a.Stdout)
		},
	}
}

func writeCompletion(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "fish":
		return root.GenFishCompletion(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	}
	return cli.UsageErrorf("%q is not one of %s", shell, strings.Join(shells, ", "))
}
