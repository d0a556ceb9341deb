// SPDX-License-Identifier: Apache-2.0

package product

import (
	"strings"
	"time"
)

// Explanation is the JSON document of `replypath explain`, as checks read it.
type Explanation struct {
	Protocol *string
	Kernel   struct {
		Interface, Gateway *string
		NextHopMAC         *string `json:"next_hop_mac"`
		Error              *string
	}
	Replypath struct {
		Interface  *string
		NextHopMAC *string `json:"next_hop_mac"`
	}
	Verdict  string
	Reason   *string
	Detail   string
	LeavesBy *string `json:"leaves_by"`
	Seen     *time.Time
	Others   []Explanation
	Matches  int

	result *Result
}

var explainKeys = []string{
	"kernel.interface", "kernel.gateway", "replypath.interface", "replypath.next_hop_mac", "verdict", "reason", "others[].verdict",
}

// Explain asks where a packet goes.
func (p *Product) Explain(args ...string) *Explanation {
	p.t.Helper()
	e := &Explanation{result: p.Expect(0, append([]string{"explain", "-o", "json"}, args...)...)}
	decode(p.t, e.result, e, explainKeys)
	return e
}

// String shows the whole document in a message.
func (e *Explanation) String() string {
	if e.result == nil { // one of the others
		return strings.TrimSpace(e.Verdict + " " + OrEmpty(e.Reason))
	}
	return e.result.String()
}

// OrEmpty is the text behind a pointer, "" for none.
func OrEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
