// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/hostsettings"
	"replypath/metrics"
)

// isDown tells of an interface by which nothing leaves. One without an address and a gateway may be a port that nobody uses.
func isDown(h *snapshot.Host, i *discover.Interface) bool {
	return !i.Up && (len(i.Addresses) > 0 || h.HasGateway(i.Index))
}

// DownInterfaces finds managed interfaces by which nothing leaves.
func DownInterfaces(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if !isDown(h, i) {
			return finding.None
		}
		severity, text := finding.Warning, i.Name+" is down: replies to what arrives there cannot leave by it"
		recorded := 0
		for n := range h.Flows {
			if f := &h.Flows[n]; f.Interface != nil && *f.Interface == i.Name {
				recorded++
			}
		}
		if recorded > 0 {
			severity, text = finding.Error, i.Name+" is down: replies of its recorded flows go as routed, or nowhere"
		}
		return finding.Seen(severity, i.Name, text, finding.Explained("ip -details link show dev "+finding.Quote(i.Name), "bring it up, or its cable")).
			Shown(uint64(recorded), nil)
	})
}

// EndedTrial tells of a trial that nobody has confirmed in time, and nobody has taken back yet.
func EndedTrial(h *snapshot.Host) []finding.Finding {
	if h.Status == nil || h.Status.TrialEnded == nil {
		return nil
	}
	return []finding.Finding{finding.Problem(finding.Error, "", "the trial is over: not confirmed by "+
		h.Status.TrialEnded.Local().Format(time.RFC3339)+", so replies leave as routed, and the next start takes back the rest", remedy.StartAgain(&h.State))}
}

// DaemonTroubles are that the daemon hangs, and what it could not do yet and tries again.
func DaemonTroubles(h *snapshot.Host) (found []finding.Finding) {
	if h.Status == nil {
		return nil
	}
	passed := h.Status.Daemon.Passed
	if hangs := metrics.Hangs(passed); !passed.IsZero() && hangs != "" {
		found = append(found, finding.Seen(finding.Error, "", hangs+"; what changes on the host is not followed",
			finding.Explained("ps -C replypath -o pid,stat,wchan,args", "what it waits for; restart it")))
	}
	return append(found, finding.Each(h.Status.Errors, func(message *string) finding.Finding {
		text := *message
		if isSaidByOthers(h, text) {
			return finding.None
		}
		if !h.Status.Daemon.Running {
			begin, rest, isLong := strings.Cut(text, ": ")
			if text = begin + ", when the daemon ended"; isLong {
				text += ": " + rest
			}
		}
		return finding.Seen(finding.Warning, "", text, finding.Explained(remedy.Command(&h.State, "replypath status --verbose"), "what it does without"))
	})...)
}

// isSaidByOthers tells the warnings of the daemon that are findings of checks of their own: `missing-interface` and `rp-filter`.
func isSaidByOthers(h *snapshot.Host, message string) bool {
	isMissing := func(c config.Interface) bool { return strings.HasPrefix(message, discover.NotThere(c.Name)) }
	isBlind := func(i discover.Interface) bool { return strings.HasPrefix(message, hostsettings.Blind(i.Name)) }
	return slices.ContainsFunc(h.Config.Interfaces, isMissing) || slices.ContainsFunc(h.Interfaces, isBlind)
}

const largerTable = "raise flow_table.max_entries"

// nearlyFull is how much of a table, in percent, is too much.
const nearlyFull = 95

// FullTables finds flow tables that have no room, or had none of late.
func FullTables(h *snapshot.Host) []finding.Finding {
	if h.Status == nil {
		return nil
	}
	found := finding.Each(h.Status.Flows.Tables, func(t *flows.TableUsage) finding.Finding {
		if t.Capacity == 0 || t.Flows*100 < t.Capacity*nearlyFull {
			return finding.None
		}
		return finding.Problem(finding.Warning, "", fmt.Sprintf("flow table %s is full: %d of %d flows", t.Name, t.Flows, t.Capacity),
			remedy.Configure(&h.State, largerTable)).
			About(t.Name).Shown(uint64(t.Flows), nil)
	})
	if n := h.Status.Counted.NotEntered; n > 0 {
		found = append(found, finding.Problem(finding.Error, "", fmt.Sprintf("flows were not recorded: %d found no place in a table", n),
			remedy.Configure(&h.State, largerTable)).
			Shown(n, h.Status.Counted.Since))
	}
	return found
}

// failing is what became of replies of late, where nothing was seen to go wrong just now.
func failing(h *snapshot.Host) (found []finding.Finding) {
	if h.Status == nil {
		return nil
	}
	trace := finding.Explained(remedy.Command(&h.State, "replypath trace --count 10"), "what becomes of each")
	c := &h.Status.Counted
	if n := c.Failing.Lost; n > 0 {
		found = append(found, finding.Seen(finding.Warning, "", fmt.Sprintf("replies were lost: %s moved and never seen leaving", packets(n)), trace).
			Shown(n, c.Since))
	}
	if n := c.Failing.Uncorrected; n > 0 {
		found = append(found, finding.Seen(finding.Warning, "", fmt.Sprintf("replies not corrected: %s left as routed", packets(n)), trace).
			Shown(n, c.Since))
	}
	return found
}

func packets(n uint64) string { return finding.Counted(n, "packet", "packets") }

// WithoutGateway finds interfaces whose replies are to go to a gateway, and that have none.
func WithoutGateway(h *snapshot.Host) []finding.Finding {
	return finding.Each(h.Interfaces, func(i *discover.Interface) finding.Finding {
		if i.Settings.NextHop != config.NextHopGateway || i.MAC == nil || h.HasGateway(i.Index) {
			return finding.None
		}
		return finding.Problem(finding.Error, i.Name, i.Name+" has no gateway: next_hop is gateway, and no route names one",
			remedy.ConfigureInterface(h, i.Name, "gateways: [its address]"))
	})
}

// UnreadFacts tells what could not be read.
func UnreadFacts(h *snapshot.Host) (found []finding.Finding) {
	for _, part := range slices.Sorted(maps.Keys(h.Failed)) {
		found = append(found, finding.Seen(finding.Warning, "", part+" could not be read: "+h.Failed[part],
			finding.Explained(remedy.Command(&h.State, "replypath doctor"), "once more")).About(part))
	}
	return found
}
