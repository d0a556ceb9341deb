// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// farFlow is of a peer with a long address, by an interface with a long name.
func farFlow() flows.Flow {
	const longest = "enp130s0f1np100" // as IFNAMSIZ allows
	far := fakehost.FlowList()[1]
	far.Peer, far.Self, far.Family = "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8:4::100", "ipv6"
	far.Interface = new(longest)
	return far
}

// TestFlowsFit: a peer with a long address, or an interface with a long name, takes no interface from the other rows.
func TestFlowsFit(t *testing.T) {
	far := farFlow()
	far.Interface = new("eth1")
	for _, test := range []struct {
		width int
		list  []flows.Flow
		want  string
	}{
		{80, []flows.Flow{fakehost.FlowList()[1], far}, `PROTO  PEER                       SELF                   IN    KERNEL  CORRECTED
tcp    10.1.0.100:50000           10.4.0.100:5432        eth1  eth0    1234
tcp    [2001:db8:1...5678]:50000  [2001:db8...100]:5432  eth1  eth0    1234
`},
		{80, []flows.Flow{fakehost.FlowList()[1], farFlow()}, `PEER                   SELF                   IN               KERNEL  CORRECTED
10.1.0.100:50000       10.4.0.100:5432        eth1             eth0    1234
[2001:db8...78]:50000  [2001:db8...100]:5432  enp130s0f1np100  eth0    1234
`},
		{200, []flows.Flow{fakehost.FlowList()[1], farFlow()}, `PROTO  PEER                                            SELF                    IN               KERNEL  NEXT HOP           STATE        AGE     IDLE  CORRECTED  ASYMMETRIC
tcp    10.1.0.100:50000                                10.4.0.100:5432         eth1             eth0    02:00:00:00:00:04  established  1h2m3s  1s    1234       yes
tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    02:00:00:00:00:04  established  1h2m3s  1s    1234       yes
`},
	} {
		page := output.Page{Width: test.width}
		new(flowCommand).table(&page, test.list)
		if diff := cmp.Diff(test.want, page.String()); diff != "" {
			t.Errorf("%d characters wide (-want +got):\n%s", test.width, diff)
		}
	}
}

// TestOriginatedFits: where what this host originated leaves, and where it should, is shown on every screen.
func TestOriginatedFits(t *testing.T) {
	begun, far := fakehost.FlowList()[1], farFlow()
	for _, f := range []*flows.Flow{&begun, &far} {
		f.State, f.Outcome, f.CorrectedPackets = flows.StateOriginated, "routed", 0
	}
	for width, want := range map[int]string{80: `PEER                       SELF                   KERNEL  SOURCE           MOVED
10.1.0.100:50000           10.4.0.100:5432        eth0    eth1             0
[2001:db8:1...5678]:50000  [2001:db8...100]:5432  eth0    enp130s0f1np100  0
`, 200: `PROTO  PEER                                            SELF                    KERNEL  SOURCE           OUTCOME  AGE     IDLE  MOVED
tcp    10.1.0.100:50000                                10.4.0.100:5432         eth0    eth1             routed   1h2m3s  1s    0
tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  eth0    enp130s0f1np100  routed   1h2m3s  1s    0
`} {
		page := output.Page{Width: width}
		(&flowCommand{listing: flows.Listing{Filter: flows.Filter{Originated: true}}}).table(&page, []flows.Flow{begun, far})
		if diff := cmp.Diff(want, page.String()); diff != "" {
			t.Errorf("%d characters wide (-want +got):\n%s", width, diff)
		}
	}
}

// TestFollowFits: a long row takes nothing from those behind it.
func TestFollowFits(t *testing.T) {
	for width, want := range map[int]string{80: `EVENT  PROTO  PEER                SELF                IN     KERNEL  CORRECTED
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    1234
new    tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    1234
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    1234
`, 90: `EVENT  PROTO  PEER                SELF                IN     KERNEL  STATE      CORRECTED
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    estab      1234
new    tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    estab      1234
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    estab      1234
`, 200: `EVENT  PROTO  PEER                SELF                IN     KERNEL  NEXT HOP           STATE           AGE     IDLE    CORRECTED  ASYMMETRIC
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    02:00:00:00:00:04  established     1h2m3s  1s      1234       yes
new    tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    02:00:00:00:00:04  established     1h2m3s  1s      1234       yes
new    tcp    10.1.0.100:50000    10.4.0.100:5432     eth1   eth0    02:00:00:00:00:04  established     1h2m3s  1s      1234       yes
`} {
		t.Setenv("COLUMNS", fmt.Sprint(width))
		var out bytes.Buffer
		f := &flowCommand{App: &cli.App{Stdout: &out}, output: new(cli.Output)}
		show, err := f.events()
		if err != nil {
			t.Fatal(err)
		}
		for _, flow := range []flows.Flow{fakehost.FlowList()[1], farFlow(), fakehost.FlowList()[1]} {
			flow.Event = flows.EventNew
			await.Must(t, show(flow))
		}
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Errorf("%d characters wide (-want +got):\n%s", width, diff)
		}
	}
}
