// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// judge looks at every packet that leaves the server by an interface. Who has what address tells which way it belongs:
// all that the server sends from an address of eth1 are answers to what came in by eth1. And whatever leaves by an
// interface is for the router behind it, by that one's MAC.
type judge struct {
	captures map[string]*topology.Capture // by the server's interface
	home     map[netip.Addr]string        // which interface has an address, or had it last
	routers  map[string][]routerMAC       // by the server's interface, the present one last
	excuses  []excuse

	right     int
	latestMAC time.Duration  // how long after a change a packet went to the MAC of before
	explained map[string]int // by the event
	wrong     []string
}

// excuse is an event that makes packets from an address go by another interface for a moment.
type excuse struct {
	event    string
	address  netip.Addr
	from, to time.Time
}

// forever ends an excuse that nothing ends yet.
var forever = time.Unix(1<<40, 0)

// routerMAC is one that a router has, or had until some time.
type routerMAC struct {
	mac net.HardwareAddr
	to  time.Time
}

// backlog is what fits between two looks at the captures.
const backlog = 1 << 16

func newJudge(t *testing.T, n *topology.TwoNIC) *judge {
	t.Helper()
	j := &judge{
		captures: make(map[string]*topology.Capture), home: make(map[netip.Addr]string),
		routers: make(map[string][]routerMAC), explained: make(map[string]int),
	}
	for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		j.watch(t, nic)
		for _, address := range nic.Addresses {
			j.home[address.Addr()] = nic.Name
		}
	}
	t.Cleanup(func() {
		for name := range j.captures {
			j.unwatch(t, name)
		}
	})
	return j
}

// watch judges what leaves by an interface from now on.
func (j *judge) watch(t *testing.T, nic *topology.Interface) {
	t.Helper()
	j.captures[nic.Name] = await.Must1[*topology.Capture](t)(nic.Peer().Capture(topology.CaptureOptions{Backlog: backlog}))
	j.routers[nic.Name] = []routerMAC{{nic.Peer().MAC, forever}}
}

// unwatch judges what has left by an interface, which is about to go.
func (j *judge) unwatch(t *testing.T, name string) {
	t.Helper()
	j.look()
	if err := j.captures[name].Stop(); err != nil {
		t.Error(err)
	}
	delete(j.captures, name)
}

// excuse lets packets from some addresses go by another interface than their own
// from now on, for so long. The event must not have begun yet.
func (j *judge) excuse(event string, d time.Duration, addresses ...netip.Addr) {
	now := time.Now()
	to := now.Add(d)
	if d == 0 {
		to = forever
	}
	for _, address := range addresses {
		j.excuses = append(j.excuses, excuse{event, address, now, to})
	}
}

// endExcuses ends what excuses an event now, but for packets that are on their way.
func (j *judge) endExcuses(event string) {
	for i := range j.excuses {
		if e := &j.excuses[i]; e.event == event && e.to == forever {
			e.to = time.Now().Add(await.SilenceTime)
		}
	}
}

// look judges what was captured until now.
func (j *judge) look() {
	for name, capture := range j.captures {
		for _, frame := range capture.Take(topology.All(topology.Going(topology.Received), concerns)) {
			j.judge(name, frame)
		}
	}
	j.excuses = slices.DeleteFunc(j.excuses, func(e excuse) bool { return e.to.Before(time.Now()) })
}

func (j *judge) judge(name string, frame *topology.Frame) {
	home, known := j.home[frame.Source]
	event, right := j.judgeMAC(name, frame)
	excuse := slices.IndexFunc(j.excuses, func(e excuse) bool { return e.covers(frame) })
	wrong := ""
	switch own := ownBy(frame); {
	case !known:
		wrong = "from nobody's address"
	case !right:
		wrong = "to a MAC that nobody has there"
	case own != "" && own != name:
		wrong = "begun by the server"
	case event != "":
		j.explained[event]++
	case home == name:
		j.right++
	case excuse >= 0:
		j.explained[j.excuses[excuse].event]++
	default:
		wrong = "not where its address is"
	}
	if wrong != "" {
		j.wrong = append(j.wrong, fmt.Sprintf("%s by %s, %s: %s", frame.Time.Format(time.StampMicro), name, wrong, frame))
	}
}

// routerChanged notes that the router behind an interface has another MAC now. What left
// until then had to be for either.
func (j *judge) routerChanged(name string, mac net.HardwareAddr) {
	all := j.routers[name]
	all[len(all)-1].to = time.Now()
	j.routers[name] = append(all, routerMAC{mac, forever})
}

// judgeMAC tells whether a packet by an interface is for the router there, and if it is
// for the MAC that this had a moment ago, by which event.
func (j *judge) judgeMAC(name string, frame *topology.Frame) (event string, right bool) {
	for _, one := range j.routers[name] {
		late := frame.Time.Sub(one.to)
		switch {
		case !bytes.Equal(one.mac, frame.DestinationMAC) || late >= knownWithin:
		case late < 0:
			return "", true
		default:
			j.latestMAC = max(j.latestMAC, late)
			return "a new gateway mac", true
		}
	}
	return "", false
}

// ownBy is the interface by which alone what the server itself begins may leave: eth0, as there
// is no better default route at any time. Nothing else is for an echo server. It is "" for answers.
func ownBy(frame *topology.Frame) string {
	isQuestion := frame.DestinationPort == traffic.EchoPort
	if isQuestion && (frame.Protocol == layers.IPProtocolTCP || frame.Protocol == layers.IPProtocolUDP) {
		return "eth0"
	}
	return ""
}

func (e *excuse) covers(frame *topology.Frame) bool {
	return e.address == frame.Source && !frame.Time.Before(e.from) && frame.Time.Before(e.to)
}

// concerns matches what replypath may move: IP but for neighbour discovery and what is for this link alone.
func concerns(f *topology.Frame) bool {
	const routerSolicitation, redirect = layers.ICMPv6TypeRouterSolicitation, layers.ICMPv6TypeRedirect
	isDiscovery := f.Protocol == layers.IPProtocolICMPv6 && f.ICMPType >= routerSolicitation && f.ICMPType <= redirect
	return f.Source.IsValid() && !isDiscovery && !f.Destination.IsMulticast() && !f.Source.IsLinkLocalUnicast()
}
