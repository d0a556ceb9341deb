// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestFlowFilters lists and forgets flows by each of the filters, without a
// daemon.
func TestFlowFilters(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start().Kill()
	harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(topology.IPv4))
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			harness.Ask(t, conversation(t, n, kind, f))
		}
	}
	harness.Ask(t, harness.NewConversation(t, harness.UDP, n.ClientEth0, n.Server.Eth0.Address(topology.IPv4)))
	filters := []struct {
		args  []string
		flows int
	}{
		{nil, 7},
		{[]string{"--peer", "10.9.0.0/24"}, 4},
		{[]string{"--peer", "2001:db8:9::100"}, 3},
		{[]string{"--interface", "eth0"}, 1},
		{[]string{"--interface", "eth1", "--protocol", "udp"}, 2},
		{[]string{"--protocol", "icmpv6"}, 1},
		{[]string{"--asymmetric"}, 6},
		{[]string{"--limit", "5"}, 5},
	}
	for _, filter := range filters {
		if flows := p.Flows(filter.args...); len(flows) != filter.flows {
			t.Errorf("flows %v: %d, not %d: %v", filter.args, len(flows), filter.flows, flows)
		}
	}
	for _, command := range [][]string{{"flows"}, {"flows", "--follow"}, {"flows", "flush"}} {
		if r := p.Expect(1, append(command, "--interface", "eth9")...); !strings.Contains(r.Stderr, "unknown interface eth9: replypath manages eth0, eth1") {
			t.Errorf("of an interface that is not managed: %s", r)
		}
	}
	p.Expect(0, "flows", "flush", "--protocol", "icmpv6")
	p.Expect(0, "flows", "flush", "--interface", "eth0")
	if flows := p.Flows(); len(flows) != 5 {
		t.Errorf("after a flush %d flows, not 5: %v", len(flows), flows)
	}
	p.Expect(0, "flows", "flush")
	if r := p.Expect(0, "flows", "-o", "json"); r.Stdout != "[]\n" {
		t.Errorf("after a flush: %s", r)
	}
}

// TestFlushUnderTraffic forgets flows that are in use: each is known again with
// its next question, and stays where it belongs.
func TestFlushUnderTraffic(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			c := conversation(t, n, kind, f)
			harness.Ask(t, c)
			talk := c.Keep(t)
			for range 5 {
				p.Expect(0, "flows", "flush", "--protocol", c.Protocol())
			}
			harness.Eventually(t, c.String()+" is known again", func() error {
				for _, flow := range p.Flows("--protocol", c.Protocol()) {
					if flow.PeerPort == c.Peer.Port() {
						return nil
					}
				}
				return fmt.Errorf("flows %v", p.Flows())
			})
			talk.Stop()
			harness.WantBy(t, n.Server, c, true)
		}
	}
}

// followed reads the events of `flows --follow`, until there were so many.
type followed struct {
	*topology.Cmd
	events *bufio.Scanner
}

func follow(t *testing.T, p *harness.Product, limit int) *followed {
	t.Helper()
	c := p.Command(harness.Within(t, harness.AnswerTime), "flows", "--follow", "--limit", strconv.Itoa(limit), "-o", "json")
	stdout := harness.Must1[io.ReadCloser](t)(c.StdoutPipe())
	harness.Must(t, c.Start())
	return &followed{c, bufio.NewScanner(stdout)}
}

// want awaits the next event, which has to be this one of the conversation.
func (f *followed) want(t *testing.T, want string, c *harness.Conversation) {
	t.Helper()
	var event struct {
		Event    string
		PeerPort uint16 `json:"peer_port"`
	}
	if !f.events.Scan() {
		t.Fatalf("no event %s: %v", want, f.events.Err())
	}
	harness.Must(t, json.Unmarshal(f.events.Bytes(), &event))
	if event.Event != want || event.PeerPort != c.Peer.Port() {
		t.Errorf("got %s, want %s of %s", f.events.Text(), want, c)
	}
}

// TestFollow tells which flows begin and end.
func TestFollow(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	f := follow(t, p, 2)
	c := conversation(t, n, harness.UDP, topology.IPv4)
	harness.Ask(t, c)
	f.want(t, "new", c)
	p.Expect(0, "flows", "flush")
	f.want(t, "ended", c)
	harness.Must(t, f.Wait())
}

// TestFollowMoved changes the MAC that a peer's packets come from, as a router does that
// takes another's place.
func TestFollowMoved(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start("--config", harness.WriteConfig(t, "interfaces: [{name: eth*, next_hop: last-hop}]\nfollow: latest\n"))
	f := follow(t, p, 2)
	c := conversation(t, n, harness.UDP, topology.IPv4)
	harness.Ask(t, c)
	f.want(t, "new", c)
	harness.Must(t, n.Server.Eth1.Peer().SetMAC(net.HardwareAddr{2, 0, 0, 0, 0xfe, 1}))
	harness.Ask(t, c)
	f.want(t, "moved", c)
	harness.Must(t, f.Wait())
}

// TestFollowGoesOn starts the daemon anew with tables of another size.
func TestFollowGoesOn(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	f := follow(t, p, 2)
	before, after := conversation(t, n, harness.UDP, topology.IPv4), conversation(t, n, harness.UDP, topology.IPv4)
	harness.Ask(t, before)
	f.want(t, "new", before)
	d.Signal(unix.SIGTERM)
	d.WaitEnd()
	p.Start("--config", harness.WriteConfig(t, harness.SmallTables))
	harness.Ask(t, after)
	f.want(t, "new", after)
	harness.Must(t, f.Wait())
}
