// SPDX-License-Identifier: Apache-2.0

package contender

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Names that others refer to.
const (
	Static    = "static"
	Rules2    = "iprule-2"
	Floor     = "floor"
	Connmark  = "connmark"
	VRF       = "vrf"
	Replypath = "replypath"
	Strong    = "replypath-strong"
)

// Way is the interface that a contender's answers leave by.
type Way int

// The ways.
const (
	ByEth1 Way = iota // that of the question
	ByEth0            // that of the default route
)

// Contender is a way to have the server answer.
type Contender struct {
	Name  string
	About string
	Way   Way

	// conntrack limits how many flows there can be.
	conntrack bool
	// everything is true where it moves what the server forwards as well.
	everything bool
	// origin is true where it differs from another in what the server opens only.
	origin bool
	setUp  func(context.Context, *Site, Options) (Running, error)
}

// Options say how contenders are set up.
type Options struct {
	// Flows is how many flows the tables have to hold; 0 is the default.
	Flows int
	// CPUs are those that a daemon may run on, as taskset(1) takes them; "" is all.
	CPUs string
	// Binary is the program; "" is the one under test.
	Binary string
	// Configuration is added to that of a daemon.
	Configuration string
}

// Running is a contender at work.
type Running interface {
	// Stop takes away what outlives the network.
	Stop() error
}

// SetUp sets the contender up on a fresh site.
func (c *Contender) SetUp(ctx context.Context, s *Site, options Options) (Running, error) {
	running, err := c.setUp(ctx, s, options)
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", c.Name, err)
	}
	return running, nil
}

// CheckWay returns an error unless the server's answers between two readings left
// as they do with this contender: else its figure would be that of something else.
func (c *Contender) CheckWay(before, after Sent) error {
	right, wrong := after.Eth1-before.Eth1, after.Eth0-before.Eth0
	if c.Way == ByEth0 {
		right, wrong = wrong, right
	}
	// ARP, and the few flows that find no room in a full table.
	if right == 0 || wrong > right/100+10 {
		return fmt.Errorf("%s: %d answers left as they should, %d by the other interface", c.Name, right, wrong)
	}
	return nil
}

// All returns the contenders in the order in which they take turns.
func All() []*Contender {
	all := []*Contender{
		{Name: Static, About: "a route to the peers by eth1: the limit", setUp: setUpStatic},
		{Name: "none", About: "answers by the default route, accepted there", Way: ByEth0, setUp: setUpNothing},
	}
	for _, count := range []int{2, 10, 100, 1000} {
		all = append(all, rules(count))
	}
	if build := os.Getenv(beforeVariable); build != "" {
		all = append(all, before(build))
	}
	return append(all,
		constants(),
		floor(),
		connmark(Connmark, "nftables connection marks, a rule for each interface", linearTable),
		connmark("connmark-vmap", "nftables connection marks by maps", mapTable),
		vrf(),
		replypath(Replypath, "enforcing, attached by TCX", ByEth1, "--mechanism", "tcx"),
		replypath("replypath-clsact", "enforcing, attached by clsact", ByEth1, "--mechanism", "clsact"),
		strong(),
		replypath("replypath-observe", "observing, attached by TCX", ByEth0, "--mechanism", "tcx", "--observe"),
		replypath("replypath-observe-clsact", "observing, attached by clsact", ByEth0, "--mechanism", "clsact", "--observe"))
}

// Work is what a contender may be unable to do.
type Work struct {
	Flows int
	// Forward is true where the server forwards the packets of others.
	Forward bool
	// Origin is true where the server asks.
	Origin bool
}

// Lacks says what keeps the contender from such work, or "".
func (c *Contender) Lacks(work Work) string {
	if c.origin && !work.Origin {
		return "it differs in what the server opens only"
	}
	if c.everything && work.Forward {
		return "it moves the packets of others as well"
	}
	if !c.conntrack {
		return ""
	}
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max") // of the machine: namespaces cannot set it
	if err != nil {
		return "" // conntrack has not been used yet: setting it up tells
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil && most < work.Flows {
		return fmt.Sprintf("nf_conntrack_max is %d on this machine", most)
	}
	return ""
}

// Fit returns those of the contenders that the kernel has what they need for, and why the others are left out.
func Fit(contenders []*Contender) (fit []*Contender, absent map[string]string, err error) {
	absent = make(map[string]string)
	for _, c := range contenders {
		reason := ""
		if c.Name == VRF {
			reason, err = vrfMissing()
		}
		switch {
		case err != nil:
			return nil, nil, err
		case reason != "":
			absent[c.Name] = reason
		default:
			fit = append(fit, c)
		}
	}
	return fit, absent, nil
}

// Named returns contenders by their names, in the order of All.
func Named(names ...string) ([]*Contender, error) {
	var found []*Contender
	for _, c := range All() {
		if slices.Contains(names, c.Name) {
			found = append(found, c)
		}
	}
	if len(found) != len(names) {
		return nil, fmt.Errorf("of the contenders %q only %d are known", names, len(found))
	}
	return found, nil
}
