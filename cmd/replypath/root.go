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
	root.Short = "Send replies by the interface that the request arrived by"
	root.Long = `A host with several interfaces sends a reply by its routing table. That need not be
the interface that the request arrived by. replypath sends each reply back by the
interface and next hop of its flow. It works in the kernel, and needs no rules, marks
or addresses.

  replypath run      attach and keep watch; what is attached stays after its end
  replypath try      the same for a while; taken back unless you confirm in time
  replypath detach   remove everything

It needs no configuration. replypath.yaml(5) describes the file that it may have.

Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  status found nothing attached, or that replies fail now; doctor found an error; plan is
     blocked`
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(
		daemon.NewRun(a, h.daemon),
		daemon.NewTry(a, h.daemon),
		daemon.NewDetach(a, h.detach),
		show.NewCheck(a, h.scan),
		show.NewStatus(a, h.status),
		show.NewMode(a, h.mode, h.setMode),
		show.NewFlows(a, h.flows),
		show.NewExplain(a, h.explain),
		show.NewTrace(a, h.trace, h.probe),
		top.New(a, h.top),
		show.NewDoctor(a, h.examine),
		show.NewPlan(a, h.plan),
		newVersion(a),
		newCompletion(a),
	)
	return root
}
