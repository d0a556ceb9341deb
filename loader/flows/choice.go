// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/kernelroute"
	"replypath/loader/sockets"
)

// The kernel's choice where it has no route but to replypath's own device, and where a route or a rule refuses.
const NoInterface, Refused = kernelroute.None, kernelroute.Refused

// mostAsked bounds for how many pairs of addresses the kernel is asked for a route in one look.
const mostAsked = 4096

// chooser asks the kernel by which interface it would send replies as its routes are now.
type chooser struct {
	handle *netlink.Handle // nil until it is needed
	failed bool
	known  map[question]*string
	host   *kernelroute.Host
	rules  map[string]*narrowRules // by family
}

// narrowRules are the rules that tell packets apart by more than their addresses.
type narrowRules struct {
	exist bool
	marks []uint32 // that they ask for
}

// question is what the kernel is asked for a route by. What stands below the VRF is only told where rules ask for it.
type question struct {
	peer, self         string
	vrf                int // 0: none
	protocol           string
	peerPort, selfPort uint16
	device             int // that the flow came in by
}

func newChooser() *chooser {
	return &chooser{known: make(map[question]*string), rules: make(map[string]*narrowRules)}
}

func (c *chooser) close() {
	if c.handle != nil {
		c.handle.Close()
	}
}

// AskKernel sets by which interface the kernel would send the replies of flows as its routes are now. It asks for so many pairs of addresses as mostAsked; of more flows it stays unknown.
func AskKernel(list []Flow) {
	c := newChooser()
	defer c.close()
	for n := range list {
		c.choose(&list[n])
	}
}

// set is choose for a flow of which the kernel chose another interface than its own.
func (c *chooser) set(f *Flow) {
	if f.Asymmetric {
		c.choose(f)
	}
}

// choose sets the kernel's choice of a flow. It stays unknown of what is forwarded, and of more flows than are asked for.
func (c *chooser) choose(f *Flow) {
	if f.State == StateOriginated || !c.isOpen() {
		return
	}
	q := question{peer: f.Peer, self: f.Self}
	if f.Interface != nil {
		q.vrf = c.host.VRFs[*f.Interface]
	}
	if c.narrow(f.Family).exist {
		q.protocol, q.peerPort, q.selfPort = f.Protocol, f.PeerPort, f.SelfPort
		if f.Interface != nil {
			q.device = c.host.IndexOf(*f.Interface)
		}
	}
	name, known := c.known[q]
	if !known && len(c.known) < mostAsked {
		name = c.ask(q)
		c.known[q] = name
	}
	f.KernelInterface = name
}

// isOpen looks at the host when that is first needed. If it cannot be looked at, nothing is known, and the flows are shown
// all the same.
func (c *chooser) isOpen() bool {
	if c.handle == nil && !c.failed {
		c.failed = c.open() != nil
	}
	return !c.failed
}

func (c *chooser) open() (err error) {
	if c.handle, err = dump.Open(); err != nil {
		return err
	}
	if c.host, err = kernelroute.ReadHost(c.handle); err != nil {
		return err
	}
	for n := range c.host.Rules {
		c.note(&c.host.Rules[n])
	}
	return nil
}

// narrow returns the narrow rules of a family.
func (c *chooser) narrow(family string) *narrowRules {
	if c.rules[family] == nil {
		c.rules[family] = new(narrowRules)
	}
	return c.rules[family]
}

// note notes what a rule tells packets apart by.
func (c *chooser) note(r *dump.Rule) {
	family := "ipv4"
	if r.Family == unix.AF_INET6 {
		family = "ipv6"
	}
	narrow := c.narrow(family)
	isMarked := r.Mark != 0 || r.Mask != nil && *r.Mask != 0
	if isMarked || r.IPProto != 0 || r.Sport != nil || r.Dport != nil || r.UIDRange != nil || r.OifName != "" {
		narrow.exist = true
	}
	if isMarked && !slices.Contains(narrow.marks, r.Mark) {
		narrow.marks = append(narrow.marks, r.Mark)
	}
}

// ask returns nil where the kernel does not say, and for what is forwarded: its answer would be that for another packet.
func (c *chooser) ask(q question) *string {
	peer, err1 := netip.ParseAddr(q.peer)
	self, err2 := netip.ParseAddr(q.self)
	if errors.Join(err1, err2) != nil || !c.host.IsOwn(self) {
		return nil
	}
	p := kernelroute.Packet{
		Peer: netip.AddrPortFrom(peer, q.peerPort), Self: netip.AddrPortFrom(self, q.selfPort), Device: q.vrf,
	}
	if q.protocol == "" {
		return c.chosen(p)
	}
	return c.askAsSent(p, &q)
}

// askAsSent asks as the socket sends. Without one, or where that does not tell its mark, it is not known which mark the
// packets have: then all that rules ask for have to lead the same way.
func (c *chooser) askAsSent(p kernelroute.Packet, q *question) *string {
	protocol, err := config.Protocol(q.protocol)
	if err != nil {
		return nil
	}
	p.Protocol = &protocol
	if s := socketOf(&p, q); s != nil {
		p.UID, p.Mark = &s.UID, s.Mark
		if s.Device != 0 {
			p.Device = s.Device
		}
		return c.chosen(p)
	}
	name := c.chosen(p)
	for _, mark := range c.narrow(family(p.Peer.Addr())).marks {
		p.Mark = mark
		if !equal(c.chosen(p), name) {
			return nil
		}
	}
	return name
}

// socketOf returns the socket that sends, nil where none can be told.
func socketOf(p *kernelroute.Packet, q *question) *sockets.Socket {
	if *p.Protocol != unix.IPPROTO_TCP && *p.Protocol != unix.IPPROTO_UDP {
		return nil
	}
	for _, device := range []int{q.device, q.vrf, 0} {
		if s, err := sockets.Find(*p.Protocol, p.Self, p.Peer, device); s != nil || err != nil {
			return s
		}
	}
	return nil
}

// chosen is the interface of the kernel's route, nil where it does not say.
func (c *chooser) chosen(p kernelroute.Packet) *string {
	if name := c.host.Leads(p); name != "" {
		return &name
	}
	return nil
}

func equal(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}
