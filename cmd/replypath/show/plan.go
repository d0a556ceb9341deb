// SPDX-License-Identifier: Apache-2.0

package show

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/plan"
)

// MakePlan makes a plan; see plan.Make.
type MakePlan func(context.Context, plan.Options) (*plan.Plan, error)

// NewPlan returns the command plan.
func NewPlan(a *cli.App, makePlan MakePlan) *cobra.Command {
	var watch time.Duration
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what enforcing would change here, and which rules could go",
		Long: `Show what would change on this host if replypath enforced. Show which rules, marks,
tables and routes it could do without then, and what is still in the way. It changes
nothing. It works with and without a daemon, and before the first start.

It looks at the flow tables and sockets of this moment. Of each it asks the kernel for
the route without source and mark, as if no rule was there.

With --watch it goes on to look for so long, every few seconds. Of each row it shows
when there was most. It keeps nothing afterwards. An interrupt ends it early, with a
plan of what was seen.

The first line is the verdict:
  ready          nothing is in the way
  blocked        doctor has an error that enforcing does not repair; exit code 3
  nothing to do here  no packet would leave by another interface, and no rule could go
Where nothing is left to do, the line counts the warnings that doctor has.

A rule, mark, table or route is one of:
  needed      it has a use that replypath does not take over
  not-needed  replypath does its work once it enforces
  foreign     it is for another purpose than replies

It cannot see what this host opens and ends between two looks, or at another time.
Watch for as long as the host's rarest job takes before you remove a rule. With
host_model: strong a rule is not needed for listed protocols that this host opens
either.

A rule that was removed has to come back before replypath detach. Where a rule is not
needed, plan names the commands that save all rules, and the one that puts it back.`,
		Example: `  replypath plan
  replypath plan --watch 1d
  replypath plan -o json | jq '.rules[] | select(.verdict == "not-needed").rule'`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.Flags().Var(cli.Value(&watch, "time", "", duration), "watch", "go on looking for so long, such as 12h or 7d; absent: look at this moment only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		options, err := examined(a.PinDir, file)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(c.Context(), unix.SIGINT, unix.SIGTERM)
		defer stop()
		p, err := makePlan(ctx, plan.Options{Options: options, Watch: watch, Progress: progress(a.Stderr, watch)})
		if watch > 0 && output.IsTerminal(a.Stderr) {
			fmt.Fprint(a.Stderr, clearLine)
		}
		if err != nil {
			return err
		}
		if err := o.Print(a.Stdout, p, func(page *output.Page) { showPlan(page, p, a.CommandLine("plan --watch 1d")) }); err != nil {
			return err
		}
		if p.Verdict == plan.Blocked {
			return &cli.ExitError{Code: cli.ExitNothing, Err: errors.New("enforcing is blocked: read what is in the way")}
		}
		return nil
	}
	return c
}

// clearLine begins the line of a terminal anew (ECMA-48, EL).
const clearLine = "\r\x1b[K"

// progress returns what tells that it watches: at a terminal for how long it has, elsewhere once.
func progress(w io.Writer, whole time.Duration) func(since time.Duration) {
	told := false
	return func(since time.Duration) {
		if output.IsTerminal(w) {
			fmt.Fprintf(w, clearLine+"watched for %s of %s; an interrupt ends it with a plan", output.Duration(since.Seconds()), output.Duration(whole.Seconds()))
		} else if !told {
			fmt.Fprintf(w, "replypath: watching for %s; SIGINT ends it with a plan\n", output.Duration(whole.Seconds()))
		}
		told = true
	}
}

// duration reads one, which may be in days.
func duration(text string) (time.Duration, error) {
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a time such as 7d, 12h or 30m", text)
	}
	return d, nil
}

func showPlan(p *output.Page, made *plan.Plan, watching string) {
	p.Wrapped("", made.Summary)
	if watched := time.Duration(made.Watched * float64(time.Second)); made.WatchedSince != nil {
		p.Line("watched for %s", cmp.Or(plan.Shortly(watched), "a moment"))
	} else {
		p.Wrapped("", "only this moment was looked at, not what other hours bring: "+watching+" goes on looking")
	}
	if !made.Attached {
		p.Wrapped("", "nothing is attached: only connections are known, not whether replies arrive")
	}
	if len(made.WouldMove) > 0 {
		p.Line("\nreplies that leave by another interface or next hop without replypath and rules:")
		showRows(p, made.WouldMove, made.MadeAt)
	}
	if len(made.Originated) > 0 {
		p.Line("\nwhat this host opened, from the address of another interface:")
		var rows []snapshot.Row
		for _, o := range made.Originated {
			rows = append(rows, o.Row)
		}
		showRows(p, rows, made.MadeAt)
		showRemedies(p, made.Originated)
	}
	for _, r := range made.Rules {
		showRule(p, &r)
	}
	if slices.ContainsFunc(made.Rules, func(r plan.Rule) bool { return r.Restore != nil }) {
		p.Line("")
		p.Wrapped("", "a rule that is removed has to come back before replypath detach, by its command above. Save all of them before:")
		p.Line("  ip rule save > rules4; ip -6 rule save > rules6")
		p.Wrapped("", "ip rule restore < rules4 adds all of these again, also those that are still there")
	}
	if len(made.HostChanges) > 0 {
		p.Line("\nenforcing changes on this host:")
		for _, c := range made.HostChanges {
			p.Wrapped("  ", fmt.Sprintf("%s: %s, was %s", c.Object, c.After, c.Before))
		}
	}
	for _, findings := range []struct {
		header string
		list   []finding.Finding
	}{{"what enforcing is for:", made.Mended}, {"in the way:", made.Blockers}} {
		if len(findings.list) > 0 {
			p.Line("\n%s", findings.header)
		}
		for n := range findings.list {
			showFinding(p, &findings.list[n])
		}
	}
}

// mostRows bounds how many rows a table shows: those of most flows.
const mostRows = 20

func showRows(p *output.Page, rows []snapshot.Row, now time.Time) {
	shown := rows[:min(len(rows), mostRows)]
	output.AddTable(p, []output.Field[snapshot.Row]{
		output.NewField("SELF", 0, func(r *snapshot.Row) string { return output.Endpoint(r.Self.String(), r.SelfPort) }),
		output.NewField("PEERS", 0, peers),
		output.NewField("PROTOCOL", 1, func(r *snapshot.Row) string { return r.Protocol }),
		output.NewField("FROM", 0, func(r *snapshot.Row) string { return r.FromInterface }),
		output.NewField("TO", 0, func(r *snapshot.Row) string { return r.ToInterface }),
		output.NewField("FLOWS", 0, func(r *snapshot.Row) string { return strconv.FormatUint(r.Flows, 10) }),
		output.NewField("PACKETS", 2, func(r *snapshot.Row) string { return counted(r.Packets) }),
		output.NewField("BYTES", 4, func(r *snapshot.Row) string { return counted(r.Bytes) }),
		output.NewField("LAST", 3, func(r *snapshot.Row) string { return output.Duration(now.Sub(r.LastSeen).Seconds()) }),
	}, shown)
	if more := len(rows) - len(shown); more > 0 {
		p.Line("and %d more: -o json has all", more)
	}
}

// peers is the network, and the port that this host asked there.
func peers(r *snapshot.Row) string {
	if r.PeerPort == 0 {
		return r.Peer.String()
	}
	return fmt.Sprintf("%s port %d", r.Peer, r.PeerPort)
}

func counted(c snapshot.Count) string {
	if c == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(c), 10)
}

// showRemedies adds each remedy once.
func showRemedies(p *output.Page, list []plan.Originated) {
	shown := map[string]bool{}
	for _, o := range list[:min(len(list), mostRows)] {
		if !shown[o.Remedy] {
			p.Wrapped("  ", "remedy: "+o.Remedy)
		}
		shown[o.Remedy] = true
	}
}

func showRule(p *output.Page, r *plan.Rule) {
	p.Line("")
	p.Wrapped("", fmt.Sprintf("%-10s  %s", r.Verdict, r.Rule))
	p.Wrapped("  ", r.Reason)
	if r.Connections > 0 {
		p.Wrapped("  ", fmt.Sprintf("connections: %d, with %s", r.Connections, output.OrDash(strings.Join(r.Peers, ", "))))
	}
	if r.Owner != nil {
		p.Wrapped("  ", "owner: "+*r.Owner)
	}
	if r.Restore != nil {
		p.Wrapped("  ", "puts it back: "+*r.Restore)
	}
}
