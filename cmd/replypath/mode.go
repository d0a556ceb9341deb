package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"replypath/loader/config"
)

var modes = []string{string(config.ModeEnforce), string(config.ModeObserve)}

func newMode(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "mode [observe|enforce]",
		Short: "Show or switch the mode",
		Long: `Show the mode, or switch it on every interface at once, with or without a daemon.
enforce sends replies back the way their flow came; observe only counts those
that would be moved. What is switched to observe stays so, also over a restart,
until it is switched back; enforce holds until the next start, which goes by the
configuration again.`,
		ValidArgs: modes,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usageErrorf("too many arguments: give one mode, %s", strings.Join(modes, " or "))
			case len(args) == 1 && !slices.Contains(modes, args[0]):
				return usageErrorf("mode %q is not one of %s", args[0], strings.Join(modes, ", "))
			}
			return nil
		},
	}
	o := addOutput(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 1 {
			if err := a.setMode(a.pinDir, args[0]); err != nil {
				return err
			}
		}
		mode, err := a.mode(a.pinDir)
		if err != nil {
			return err
		}
		return o.print(a.stdout, map[string]string{"mode": mode}, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, mode)
			return err
		})
	}
	return c
}
