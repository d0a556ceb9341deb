// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// programs are what the programs do about gateways that are silent.
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

// said are the keys in the map `gateway_macs` of what is said of a gateway by the MAC that it had last. Others may have that
// MAC as well, by another family.
func said(g *gateway, word bpf.DatapathGatewayWord) (keys []bpf.DatapathGatewayMac) {
	families := g.families()
	if word == bpf.DatapathGatewayWordGATEWAY_SILENT {
		families = []uint8{addressFamily(g)}
	}
	for _, family := range families {
		key := bpf.DatapathGatewayMac{Ifindex: uint32(g.Interface), Family: family, Word: uint8(word)}
		copy(key.Mac[:], g.last)
		keys = append(keys, key)
	}
	return keys
}

func (p *programs) say(g *gateway, word bpf.DatapathGatewayWord, lasting time.Duration) error {
	clock, err := p.Datapath().Clock()
	if err != nil {
		return err
	}
	for _, key := range said(g, word) {
		if err := p.Datapath().GatewayMacs.Put(key, clock.After(lasting)); err != nil {
			return fmt.Errorf("tell the programs of the silent gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

func (p *programs) unsay(g *gateway, word bpf.DatapathGatewayWord) error {
	for _, key := range said(g, word) {
		if err := p.Datapath().GatewayMacs.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("have the programs forget the silent gateway %s: %w", g.Address, err)
		}
	}
	return nil
}

// askEverybody has the kernel's questions for a silent gateway go to everybody: who replaces one has another MAC.
func (p *programs) askEverybody(g *gateway) error {
	if g.isUnknown() {
		return nil // they know the MAC that nobody has
	}
	return p.say(g, bpf.DatapathGatewayWordGATEWAY_SILENT, askedFor)
}

// tell tells the programs that an entry is held, for a while, unless the gateway forwards all
// the same.
func (p *programs) tell(g *gateway) error {
	if g.isUnknown() {
		return nil
	}
	if p.Interface(g.Interface).isServed() && p.connections.makeProgress(g) {
		return p.unsay(g, bpf.DatapathGatewayWordGATEWAY_HELD)
	}
	return p.say(g, bpf.DatapathGatewayWordGATEWAY_HELD, heldFor)
}

// forget takes back all that was said of a gateway.
func (p *programs) forget(g *gateway) error {
	return errors.Join(p.unsay(g, bpf.DatapathGatewayWordGATEWAY_SILENT), p.unsay(g, bpf.DatapathGatewayWordGATEWAY_HELD))
}

// forgetLast has the programs forget the MAC that a silent gateway had, where it has got another:
// by that one nobody would ask for it again.
func (p *programs) forgetLast(g *gateway, mac net.HardwareAddr) {
	if !g.isHeld() && !g.isBridged() || g.isUnknown() || bytes.Equal(g.last, mac) {
		return
	}
	if err := p.forget(g); err != nil {
		p.Log.Error("the earlier mac of a silent gateway is kept", "gateway", g.Address, "error", err)
	}
}
