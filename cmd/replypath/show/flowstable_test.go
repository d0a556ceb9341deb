// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

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

// TestFlowsFit: where a peer has a long address, or an interface a long name, other columns go: never the interfaces.
func TestFlowsFit(t *testing.T) {
	near := farFlow()
	near.Peer = "2001:db8::7"
	for _, test := range []struct {
		width int
		list  []flows.Flow
		want  string
	}{
		{82, []flows.Flow{fakehost.FlowList()[1], near}, `PEER                 SELF                    IN               KERNEL  CORRECTED
10.1.0.100:50000     10.4.0.100:5432         eth1             eth0    1234
[2001:db8::7]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    1234
`},
		{80, []flows.Flow{fakehost.FlowList()[1], farFlow()}, `PEER                                            SELF                    IN               KERNEL  CORRECTED
10.1.0.100:50000                                10.4.0.100:5432         eth1             eth0    1234
[2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    1234
`},
		{200, []flows.Flow{fakehost.FlowList()[1], farFlow()}, `PROTO  PEER                                            SELF                    IN               KERNEL  NEXT HOP           STATE        AGE     IDLE  CORRECTED  ASYMMETRIC
tcp    10.1.0.100:50000                                10.4.0.100:5432         eth1             eth0    02:00:00:00:00:04  established  1h2m3s  1s    1234       yes
tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  enp130s0f1np100  eth0    02:00:00:00:00:04  established  1h2m3s  1s    1234       yes
`},
	} {
		page := output.Page{Width: test.width}
		output.AddTable(&page, new(flowCommand).fields(), test.list)
		await.Same(t, fmt.Sprintf("%d characters wide", test.width), test.want, page.String())
	}
}

// TestOriginatedFits: where what this host originated leaves, and where it should, is shown on every screen.
func TestOriginatedFits(t *testing.T) {
	begun, far := fakehost.FlowList()[1], farFlow()
	for _, f := range []*flows.Flow{&begun, &far} {
		f.State, f.Outcome, f.CorrectedPackets = flows.StateOriginated, "routed", 0
	}
	for width, want := range map[int]string{80: `PEER                                            SELF                    KERNEL  SOURCE           MOVED
10.1.0.100:50000                                10.4.0.100:5432         eth0    eth1             0
[2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  eth0    enp130s0f1np100  0
`, 200: `PROTO  PEER                                            SELF                    KERNEL  SOURCE           OUTCOME  AGE     IDLE  MOVED
tcp    10.1.0.100:50000                                10.4.0.100:5432         eth0    eth1             routed   1h2m3s  1s    0
tcp    [2001:db8:1234:5678:9abc:def0:1234:5678]:50000  [2001:db8:4::100]:5432  eth0    enp130s0f1np100  routed   1h2m3s  1s    0
`} {
		page := output.Page{Width: width}
		f := &flowCommand{listing: flows.Listing{Filter: flows.Filter{Originated: true}}}
		output.AddTable(&page, f.fields(), []flows.Flow{begun, far})
		await.Same(t, fmt.Sprintf("%d characters wide", width), want, page.String())
	}
}

// paged is a table of so many flows, of which Show makes two at a time.
type paged struct {
	FlowTable
	flows int
}

func (p *paged) Show(_ flows.Listing, each func([]flows.Flow) error) error {
	for page := range slices.Chunk(slices.Repeat([]flows.Flow{fakehost.FlowList()[1]}, p.flows), 2) {
		if err := each(page); err != nil {
			return err
		}
	}
	return nil
}

func (*paged) Close() error { return nil }

// TestFlowsByPages: a listing looks the same however many pages it is made of.
func TestFlowsByPages(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	const (
		header = "PROTO  PEER              SELF             IN    KERNEL  STATE        CORRECTED\n"
		line   = "tcp    10.1.0.100:50000  10.4.0.100:5432  eth1  eth0    established  1234\n"
	)
	shown := func(count int, args ...string) string {
		var out bytes.Buffer
		c := NewFlows(&cli.App{Stdout: &out, Stderr: &out}, func(string) (FlowTable, error) { return &paged{flows: count}, nil })
		c.SetArgs(args)
		await.Must(t, c.Execute())
		return out.String()
	}
	for _, count := range []int{0, 1, 5} {
		table := header + strings.Repeat(line, count)
		if count == 0 { // all columns have room
			table = "PROTO  PEER  SELF  IN  KERNEL  NEXT HOP  STATE  AGE  IDLE  CORRECTED  ASYMMETRIC\n"
		}
		await.Same(t, fmt.Sprintf("%d flows", count), table, shown(count))
		var want bytes.Buffer
		encoder := output.NewEncoder(&want)
		encoder.SetIndent("", "  ")
		await.Must(t, encoder.Encode(slices.Repeat([]flows.Flow{fakehost.FlowList()[1]}, count)))
		await.Same(t, fmt.Sprintf("%d flows as JSON", count), want.String(), shown(count, "-o", "json"))
	}
}
