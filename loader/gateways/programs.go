// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// programs are what the programs do about gateways that are held.
type programs struct {
	*Host
	connections connections
}

// attach attaches the program that answers what the host starts by a gateway
// that is held: without the entry, it would get an error. Where the interface has no
// programs yet, AttachHeld does.
func (p *programs) attach(g *gateway) error {
	s := p.Interface(g.Interface)
	if !s.Attached || !s.HasHeader || g.heldBy == p.Datapath() || g.isUnknown() {
		return nil
	}
	if _, err := p.Attacher().Attach(s.Interface, p.Datapath().HeldPrograms()); err != nil {
		return fmt.Errorf("interface %s: %w", s.Name, err)
	}
	g.heldBy = p.Datapath()
	return nil
}

// heldKey is where the programs have a held gateway, for packets of a family.
func heldKey(g *gateway, family uint8) bpf.DatapathPrefixKey {
	return datapath.MACKey(bpf.DatapathPrefixKindPREFIX_HELD, g.Interface, g.last, family)
}

// tell tells the programs that an entry is held, for a while, unless the gateway forwards all
// the same. They know the MAC that nobody has.
func (p *programs) tell(g *gateway) error {
	if g.isUnknown() {
		return nil
	}
	if s := p.Interface(g.Interface); s.isServed() && s.Up && p.connections.makeProgress(g) {
		return p.forget(g)
	}
	clock, err := p.Datapath().Clock()
	if err != nil {
		return err
	}
	for _, family := range g.families() {
		if err := p.Datapath().Prefixes.Put(heldKey(g, family), clock.After(heldFor)); err != nil {
			return fmt.Errorf("write held gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

func (p *programs) forget(g *gateway) error {
	for _, family := range g.families() { // the other one may be another gateway's, of the same MAC
		if err := p.Datapath().Prefixes.Delete(heldKey(g, family)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget held gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

// forgetLast has the programs forget the MAC that a held gateway had, where it has got another:
// by that one nobody would ask for it again.
func (p *programs) forgetLast(g *gateway, mac net.HardwareAddr) {
	if !g.isHeld() || g.isUnknown() || bytes.Equal(g.last, mac) {
		return
	}
	if err := p.forget(g); err != nil {
		p.Log.Error("the earlier mac of a silent gateway is kept", "gateway", g.Address, "error", err)
	}
}
