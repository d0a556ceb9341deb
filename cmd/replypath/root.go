// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/daemon"
	"replypath/cmd/replypath/show"
	"replypath/cmd/replypath/top"
)

// run executes a command line and returns the exit code. It ends early when ctx
// does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, h host) int {
	a := &cli.App{Stdout: stdout, Stderr: stderr, Version: productVersion()}
	return a.Run(ctx, newRoot(a, h), args)
}

// newRoot makes every command. A new one is one more line here.
func newRoot(a *cli.App, h host) *cobra.Command {
	root := cli.NewRoot(a)
	root.Short = "Answer by the interface that was asked"
	root.Long = `A host with several interfaces answers by its routing table, not by the
interface that the question came in on. replypath sends every reply back the way
its flow came, in the kernel, without rules, marks or addresses to set up.

  replypath run      attach and keep watch; what is attached stays when it ends
  replypath try      the same, taken back unless it is confirmed in time
  replypath detach   take everything away again

It needs no configuration; replypath.yaml(5) describes the one that it may have.
replypath --version shows the version.

Exit code 0: done. 1: failed. 2: wrong usage or configuration. 3: status found
nothing attached, or doctor an error.`
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(
		daemon.NewRun(a, h.daemon),
		daemon.NewTry(a, h.daemon),
		daemon.NewGuard(a, h.daemon),
		daemon.NewDetach(a, h.detach),
		show.NewCheck(a, h.survey),
		show.NewStatus(a, h.status),
		show.NewMode(a, h.mode, h.setMode),
		show.NewFlows(a, h.flows),
		show.NewExplain(a, h.explain),
		show.NewTrace(a, h.trace, h.probe),
		top.New(a, h.top),
		show.NewDoctor(a, h.examine, h.fix),
		newDemo(a),
		newVersion(a),
		newCompletion(a),
	)
	return root
}
