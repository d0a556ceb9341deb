// SPDX-License-Identifier: Apache-2.0

package show

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/doctor/checks"
	"replypath/loader/doctor/finding"
	"replypath/loader/history"
	"replypath/loader/plan"
)

// MakePlan makes a plan; see plan.Make.
type MakePlan func(plan.Options) (*plan.Plan, error)

// NewPlan returns the command plan.
func NewPlan(a *cli.App, makePlan MakePlan) *cobra.Command {
	var since time.Duration
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what enforcing would change here, and which rules could go",
		Long: `Show what would change on this host if replypath enforced. Show which rules, marks,
tables and routes it could do without then, and what is still in the way. It changes
nothing. It works with and without a daemon, and before the first start.

A daemon keeps a history for it, also while it only observes. Once a minute it looks
at the flow tables and sockets. Of each it asks the kernel for the route without
source and mark, as if no rule was there. Without pins, plan knows the connections of
this moment only.

The first line is the verdict:
  ready          nothing is in the way
  blocked        doctor has an error that enforcing does not repair; exit code 3
  nothing to do here  no packet would leave by another interface, and no rule could go
Where nothing is left to do, the line counts the warnings that doctor has.

A rule, mark, table or route is one of:
  needed      it has a use that replypath does not take over
  not-needed  replypath does its work once it enforces
  foreign     it is for another purpose than replies

It cannot see what this host opens and ends between two looks. Watch for as long as
the host's rarest job takes before you remove a rule. With host_model: strong a rule
is not needed for listed protocols that this host opens either.

With -o json it is one object:
  verdict        ready, blocked or nothing-to-do
  summary        the verdict in one line
  made_at        when it was made
  watched_since  when the history begins; null: only this moment was looked at
  watched_seconds  for how long a daemon looked
  history_error  why earlier looks are not regarded; null: they are
  would_move[]   replies: self, self_port, protocol, peer (a /24 or /64),
                 from_interface (none: no route; refused), to_interface, flows, packets, bytes
                 (null: not counted), first_seen, last_seen
  originated[]   what this host opened: the same, peer_port, remedy; related: true where its
                 peer was heard at to_interface before
  rules[]        rule, kind (rule, mark, table, route), verdict, reason, owner,
                 connections, peers
  host_changes[] object, before, after; the routes for bound sockets are
                 known once a daemon observes
  blockers[]     as doctor[]
  mended[]       what enforcing is for, as doctor[]`,
		Example: `  replypath plan
  replypath plan --since 7d
  replypath plan -o json | jq '.rules[] | select(.verdict == "not-needed").rule'`,
		Args: cli.NoArguments,
	}
	file := cli.AddConfigFile(c)
	o := cli.AddOutput(c)
	c.Flags().Var(cli.Value(&since, "time", "", ago), "since", "regard what was seen since then, such as 7d or 12h; absent: all that is kept")
	c.RunE = func(*cobra.Command, []string) error {
		options, err := examined(a.PinDir, file)
		if err != nil {
			return err
		}
		p, err := makePlan(plan.Options{Options: options, Since: since})
		if err != nil {
			return err
		}
		if err := o.Print(a.Stdout, p, func(page *output.Page) { showPlan(page, p) }); err != nil {
			return err
		}
		if p.Verdict == plan.Blocked {
			return &cli.ExitError{Code: cli.ExitNothing, Err: errors.New("enforcing is blocked: read what is in the way")}
		}
		return nil
	}
	return c
}

// ago reads a duration, which may be in days.
func ago(text string) (time.Duration, error) {
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

func showPlan(p *output.Page, made *plan.Plan) {
	p.Wrapped("", made.Summary)
	if made.WatchedSince != nil {
		watched := time.Duration(made.Watched * float64(time.Second))
		p.Line("watched for %s since %s ago", cmp.Or(checks.Shortly(watched), "a moment"), cmp.Or(checks.Shortly(made.MadeAt.Sub(*made.WatchedSince)), "a moment"))
	} else {
		p.Wrapped("", "nothing is attached: only the connections of this moment are known, not whether replies arrive")
	}
	if made.HistoryError != nil {
		p.Wrapped("", "earlier looks are not regarded: "+*made.HistoryError)
	}
	if len(made.WouldMove) > 0 {
		p.Line("\nreplies that leave by another interface or next hop without replypath and rules:")
		showRows(p, made.WouldMove, made.MadeAt)
	}
	if len(made.Originated) > 0 {
		p.Line("\nwhat this host opened, from the address of another interface:")
		var rows []history.Row
		for _, o := range made.Originated {
			rows = append(rows, o.Row)
		}
		showRows(p, rows, made.MadeAt)
		showRemedies(p, made.Originated)
	}
	for _, r := range made.Rules {
		showRule(p, &r)
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

func showRows(p *output.Page, rows []history.Row, now time.Time) {
	shown := rows[:min(len(rows), mostRows)]
	output.AddTable(p, []output.Field[history.Row]{
		output.NewField("SELF", 0, func(r *history.Row) string { return output.Endpoint(r.Self.String(), r.SelfPort) }),
		output.NewField("PEERS", 0, peers),
		output.NewField("PROTOCOL", 1, func(r *history.Row) string { return r.Protocol }),
		output.NewField("FROM", 0, func(r *history.Row) string { return r.FromInterface }),
		output.NewField("TO", 0, func(r *history.Row) string { return r.ToInterface }),
		output.NewField("FLOWS", 0, func(r *history.Row) string { return strconv.FormatUint(r.Flows, 10) }),
		output.NewField("PACKETS", 2, func(r *history.Row) string { return counted(r.Packets) }),
		output.NewField("BYTES", 4, func(r *history.Row) string { return counted(r.Bytes) }),
		output.NewField("LAST", 3, func(r *history.Row) string { return output.Duration(now.Sub(r.LastSeen).Seconds()) }),
	}, shown)
	if more := len(rows) - len(shown); more > 0 {
		p.Line("and %d more: -o json has all", more)
	}
}

// peers is the network, and the port that this host asked there.
func peers(r *history.Row) string {
	if r.PeerPort == 0 {
		return r.Peer.String()
	}
	return fmt.Sprintf("%s port %d", r.Peer, r.PeerPort)
}

func counted(c history.Count) string {
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
}
