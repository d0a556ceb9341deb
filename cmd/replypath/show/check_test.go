// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"testing"

	"replypath/cmd/replypath/output"
	"replypath/loader/status"
	"replypath/test/await"
)

// TestCheckFits: a reason that has no room beside its interface stands below.
func TestCheckFits(t *testing.T) {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	result := &checkResult{
		File: "a.yaml", Present: true, Warnings: []string{"interfaces[0].gateways: next_hop last-hop sends nothing to them: use auto or gateway if it should"},
		Survey: Survey{
			Interfaces: []Checked{{Name: longest, Mode: "enforce", HostModel: "strong"}},
			Missing:    []string{longest},
			Unmanaged:  []status.Unmanaged{{Name: "lo", Reason: "loopback"}},
		},
	}
	for width, want := range map[int]string{
		80: `a.yaml: valid
a.yaml: warning: interfaces[0].gateways: next_hop last-hop sends nothing to
  them: use auto or gateway if it should

INTERFACE        MANAGED  MODE     HOST MODEL
enp130s0f1np100  yes      enforce  strong
enp130s0f1np100  no       -        -
lo               no       -        -

NOT MANAGED
enp130s0f1np100: no such interface: it is managed once it appears
lo: loopback
`,
		200: `a.yaml: valid
a.yaml: warning: interfaces[0].gateways: next_hop last-hop sends nothing to them: use auto or gateway if it should

INTERFACE        MANAGED  MODE     HOST MODEL  REASON
enp130s0f1np100  yes      enforce  strong      -
enp130s0f1np100  no       -        -           no such interface: it is managed once it appears
lo               no       -        -           loopback
`,
	} {
		page := output.Page{Width: width}
		result.show(&page)
		await.Same(t, fmt.Sprintf("%d characters wide", width), want, page.String())
	}
}
