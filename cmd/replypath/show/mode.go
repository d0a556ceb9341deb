// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/config"
)

var modes = []string{string(config.ModeEnforce), string(config.ModeObserve)}

// NewMode returns the command mode. read tells the mode of what is pinned, set switches it and names what that leaves
// undone on the host; see status.Mode and status.SetMode.
func NewMode(
	a *cli.App, read func(pinDir string) (string, error), set func(pinDir, mode string) (undone []string, err error),
) *cobra.Command {
	c := &cobra.Command{
		Use:   "mode [observe|enforce]",
		Short: "Show or switch the mode",
		Long: `Show the mode, or switch it on every interface at once. A daemon is not needed.

  enforce  sends replies back by the interface and next hop of their flow; it holds
           until the next start, which uses the configuration again
  observe  only counts the replies that would be moved; it stays, also over a
           restart, until you switch it back

A daemon also adapts the host to the mode within a second, as a start in that mode
would. Without a daemon only the programs are switched. Standard error then names what
stays undone on the host.

A mode set by hand also holds for interfaces that have a mode of their own. Theirs is in
force again when the mode set by hand ends.`,
		ValidArgs: modes,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return cli.UsageErrorf("too many arguments: give one mode, %s", strings.Join(modes, " or "))
			case len(args) == 1 && !slices.Contains(modes, args[0]):
				return cli.UsageErrorf("mode %q is not one of %s", args[0], strings.Join(modes, ", "))
			}
			return nil
		},
	}
	o := cli.AddOutput(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			undone, err := set(a.PinDir, args[0])
			if err != nil {
				return err
			}
			sayUndone(a.Stderr, args[0], undone)
		}
		mode, err := read(a.PinDir)
		if err != nil {
			return err
		}
		return o.Print(a.Stdout, map[string]string{"mode": mode}, func(p *output.Page) { p.Line("%s", mode) })
	}
	return c
}

// sayUndone names the objects of the host that only a daemon changes with the mode.
func sayUndone(w io.Writer, mode string, undone []string) {
	if len(undone) == 0 {
		return
	}
	what := "is left undone until `replypath run` enforces"
	if mode == string(config.ModeObserve) {
		what = "stays changed until `replypath run` or `replypath detach`"
	}
	fmt.Fprintf(w, "replypath: no daemon runs, so this %s: %s\n", what, strings.Join(undone, ", "))
}
