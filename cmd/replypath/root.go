package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"replypath/loader/pins"
)

// app is what the commands share.
type app struct {
	deps
	stdout, stderr io.Writer
	pinDir         string
	givenPinDir    string // as other processes name it
}

// commands makes every command. A new one is one more line here.
var commands = []func(*app) *cobra.Command{
	newRun,
	newDetach,
	newCheck,
	newStatus,
	newFlows,
	newExplain,
	newTrace,
	newTop,
	newTry,
	newMode,
	newDoctor,
	newDemo,
	newVersion,
	newCompletion,
	newGuard,
}

// run executes a command line and returns the exit code. It ends early when ctx
// does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, d deps) int {
	root := newRoot(&app{deps: d, stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		report(stderr, err)
	}
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "replypath",
		Short: "Answer by the interface that was asked",
		Long: `A host with several interfaces answers by its routing table, not by the
interface that the question came in on. replypath sends every reply back the way
its flow came, in the kernel, without rules, marks or addresses to set up.

  replypath run      attach and keep watch; what is attached stays when it ends
  replypath try      the same, taken back unless it is confirmed in time
  replypath detach   take everything away again

It needs no configuration; replypath.yaml(5) describes the one that it may have.
replypath --version shows the version.

Exit code 0: done. 1: failed. 2: wrong usage or configuration. 3: status found
nothing attached, or doctor an error.`,
		Version:           versionText(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Args:              noArguments,
		RunE:              needCommand,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkPinDir() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.CompletionOptions.DisableDefaultCmd = true // newCompletion refuses unknown shells
	// No argument is a file, and of the flags only those that say so.
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.PersistentFlags().StringVar(&a.pinDir, "pin-dir", pins.DefaultDir, "`directory` on a bpf file system that holds what is attached")
	if err := root.MarkPersistentFlagDirname("pin-dir"); err != nil {
		panic(err) // there is no such flag
	}
	for _, command := range commands {
		root.AddCommand(command(a))
	}
	return root
}

// flagError words what pflag found wrong with a flag.
func flagError(c *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		if invalid.GetFlag().Value.Type() == "bool" {
			return usageErrorf("--%s: %q is not one of true, false", invalid.GetFlag().Name, invalid.GetValue())
		}
		return usageErrorf("--%s: %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return usageErrorf("%w: see %s --help", err, c.CommandPath())
}

func (a *app) checkPinDir() error {
	if a.pinDir == "" {
		return usageErrorf("--pin-dir is empty: name a directory such as %s", pins.DefaultDir)
	}
	a.givenPinDir, a.pinDir = a.pinDir, pins.Visible(a.pinDir)
	return nil
}

// noArguments refuses arguments; where they look like a command they say which.
func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	what := "unexpected argument"
	if c.HasAvailableSubCommands() {
		what = "unknown command"
	}
	c.SuggestionsMinimumDistance = 2
	if names := c.SuggestionsFor(args[0]); len(names) > 0 {
		return usageErrorf("%s %q, did you mean %s? see %s --help", what, args[0], strings.Join(names, " or "), c.CommandPath())
	}
	return usageErrorf("%s %q: see %s --help", what, args[0], c.CommandPath())
}

// needCommand serves a command line that names no command.
func needCommand(c *cobra.Command, _ []string) error {
	return usageErrorf("no command is given: see %s --help", c.CommandPath())
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
				return noArguments(root, args)
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
