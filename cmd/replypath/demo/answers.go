package demo

import (
	"fmt"
	"strings"
	"time"

	"replypath/cmd/replypath/demo/network"
)

// showAnswers shows what became of questions, one line each.
func showAnswers(p *page, questions []*question) {
	for _, q := range questions {
		if q.answered() {
			p.good("%-4s  %-16s  answered in %s", q.name, q.target(), q.took.Round(10*time.Microsecond))
		} else {
			p.bad("%-4s  %-16s  no answer in %s", q.name, q.target(), q.took.Round(100*time.Millisecond))
		}
	}
}

// showCompact shows what became of the questions in a family, and by which
// interface the replies left, all in one line.
func showCompact(p *page, r *round, questions []*question) {
	marks := make([]string, len(questions))
	for i, q := range questions {
		marks[i] = p.mark(q.answered()) + " " + q.name
	}
	p.line("%s  %s: %s, %s", strings.Join(marks, " "), questions[0].asked,
		way("eth0", frames(r.byEth0, questions)), way("eth1", frames(r.byEth1, questions)))
}

// way tells how many replies left by an interface, and the MACs of the first.
func way(name string, replies []*network.Frame) string {
	if len(replies) == 0 {
		return "none by " + name
	}
	return fmt.Sprintf("%d replies by %s (%s > %s)", len(replies), name, replies[0].SourceMAC, replies[0].DestinationMAC)
}
