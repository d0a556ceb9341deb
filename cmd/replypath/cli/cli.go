// SPDX-License-Identifier: Apache-2.0

// Package cli is what the commands share: their command line, their exit codes and how they print.
package cli

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"replypath/loader/finding"
	"replypath/loader/pins"
)

// App is what the commands share.
type App struct {
	Stdout, Stderr io.Writer
	Version        string
	PinDir         string
	GivenPinDir    string // as other processes name it
}

// Run executes a command line of root and returns the exit code. It ends early when ctx does.
func (a *App) Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		Report(a.asGiven(a.Stderr), err)
	}
	return exitCode(err)
}

// asGiven names the pin directory in each line as the command line does, where this process reaches it another way.
func (a *App) asGiven(w io.Writer) io.Writer {
	if a.PinDir == a.GivenPinDir || a.GivenPinDir == "" {
		return w
	}
	return replacing{w, strings.NewReplacer(a.PinDir, a.GivenPinDir)}
}

// replacing replaces in what is written at once.
type replacing struct {
	to io.Writer
	by *strings.Replacer
}

func (r replacing) Write(text []byte) (int, error) {
	_, err := r.by.WriteString(r.to, string(text))
	return len(text), err
}

// CommandLine is a command as it is typed for the same pins: words are its name, and its arguments if it has some.
func (a *App) CommandLine(words string) string {
	line := "replypath " + words
	if a.GivenPinDir != "" && a.GivenPinDir != pins.DefaultDir {
		line += " --pin-dir " + finding.Quote(a.GivenPinDir)
	}
	return line
}

// NewRoot returns the command that all others belong to.
func NewRoot(a *App) *cobra.Command {
	root := &cobra.Command{
		Use:               "replypath",
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Args:              NoArguments,
		RunE:              needCommand,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkPinDir() },
	}
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.CompletionOptions.DisableDefaultCmd = true // it takes unknown shells for success
	// No argument is a file, and of the flags only those that say so.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.PersistentFlags().StringVar(&a.PinDir, "pin-dir", pins.DefaultDir, "`directory` on a bpf file system that holds what is attached")
	must(root.MarkPersistentFlagDirname("pin-dir"))
	return root
}

// flagError words what pflag found wrong with a flag.
func flagError(c *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		if invalid.GetFlag().Value.Type() == "bool" {
			return UsageErrorf("--%s: %q is not one of true, false", invalid.GetFlag().Name, invalid.GetValue())
		}
		return UsageErrorf("--%s: %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return UsageErrorf("%w: see %s --help", err, c.CommandPath())
}

func (a *App) checkPinDir() error {
	if a.PinDir == "" {
		return UsageErrorf("--pin-dir is empty: name a directory such as %s", pins.DefaultDir)
	}
	a.GivenPinDir, a.PinDir = a.PinDir, pins.Visible(a.PinDir)
	return nil
}

// NoArguments refuses arguments; where they look like a command they say which.
func NoArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	what := "unexpected argument"
	if c.HasAvailableSubCommands() {
		what = "unknown command"
	}
	c.SuggestionsMinimumDistance = 2
	if names := c.SuggestionsFor(args[0]); len(names) > 0 {
		return UsageErrorf("%s %q, did you mean %s? see %s --help", what, args[0], strings.Join(names, " or "), c.CommandPath())
	}
	return UsageErrorf("%s %q: see %s --help", what, args[0], c.CommandPath())
}

// needCommand serves a command line that names no command.
func needCommand(c *cobra.Command, _ []string) error {
	return UsageErrorf("no command is given: see %s --help", c.CommandPath())
}

// newHelp replaces cobra's own, which takes an unknown command for success.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show the help of a command",
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			command, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return NoArguments(root, args)
			}
			command.InitDefaultHelpFlag()
			command.InitDefaultVersionFlag()
			return command.Help()
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			command, _, err := c.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range command.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
