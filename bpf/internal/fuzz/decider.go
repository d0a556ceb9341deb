// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"errors"
	"net/netip"

	"replypath/bpf"
	"replypath/bpf/internal/model"
)

// decider is something that decides where that goes which the host originates.
type decider int

const (
	ownOfOne     decider = iota // a device alone has the own addresses
	ownOfSeveral                // several have them
	networkAt                   // a device has the network of the on-link peer
	networkNowhere
	hostModel
	firstGateway
	gatewayRoutes
	sourceGateway
	exclusion
	deciders
)

// decider of a step of kind `decide`, and its choice.
func (s Step) decider() (d decider, choice int) {
	return decider(s.Amount) % deciders, s.Amount / int(deciders)
}

// decide changes what decides, on both sides. As the loader does, it has what was decided before be void afterwards.
func (x *run) decide(s Step) error {
	d, choice := s.decider()
	var err error
	switch d {
	case ownOfOne:
		err = x.moveOwn(s.Device)
	case ownOfSeveral:
		err = x.moveOwn(devices)
	case networkAt:
		err = x.moveNetwork(s.Device)
	case networkNowhere:
		err = x.moveNetwork(devices)
	case sourceGateway:
		err = x.changeSources(s.Device, choice)
	case exclusion:
		x.m.Host.Exclusions = []model.Exclusion{exclusions[choice%len(exclusions)]}
		err = x.forgetRefused()
	default:
		return x.changeInterface(s.Device, d, choice)
	}
	return errors.Join(err, x.outdate())
}

// outdate makes void what was decided for what the host originates.
func (x *run) outdate() error {
	x.ways++
	return x.d.SetSettings(x.settings(x.m.Host))
}

// moveOwn has the own addresses be a device's alone; `devices`: those of several.
func (x *run) moveOwn(device int) error {
	to := Setup{source: device}.sourceInterface()
	var errs []error
	for address, flags := range x.m.Host.OwnAddresses {
		flags = flags&(1<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT-1) | to
		x.m.Host.OwnAddresses[address] = flags
		errs = append(errs, x.d.SetOwnAddress(address, flags))
	}
	return errors.Join(append(errs, x.forgetRefused())...)
}

// forgetRefused has both sides forget what they remember as long as the generation is the same.
func (x *run) forgetRefused() error {
	clear(x.m.Refused)
	return errors.Join(x.d.ForgetMarks(), x.d.ForgetSelves())
}

// moveNetwork has the on-link peer's network be at a device; `devices`: at none.
func (x *run) moveNetwork(device int) error {
	x.m.Host.OnLink = make(map[uint32][]netip.Prefix)
	if device < devices {
		for _, n := range networks {
			ifindex := x.devices[device].Index
			x.m.Host.OnLink[ifindex] = append(x.m.Host.OnLink[ifindex], n.onLink)
		}
	}
	return x.installPrefixes(x.m.Host)
}

// changeInterface changes what an interface's record says of how to get to peers.
func (x *run) changeInterface(device int, d decider, choice int) error {
	id := interfaceID(device)
	record, ok := x.m.Host.Interfaces[id]
	if !ok {
		return nil
	}
	switch d {
	case hostModel:
		record.Flags ^= uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	case firstGateway: // the only one is always the first
		if record.Gateways4 > 1 {
			record.FirstGateway4 = x.numbered(device, choice, 0)
		}
		if record.Gateways6 > 1 {
			record.FirstGateway6 = x.numbered(device, choice, gatewaysPerDevice/2)
		}
	case gatewayRoutes:
		setup := deviceSetup{gateways: record.Gateways4, routes: routes(choice % routesEnd)}
		const both = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4 | bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
		record.Flags = record.Flags&^both | setup.record(x.devices[device], device).Flags&both
		x.m.Host.Routes[x.devices[device].Index] = setup.routed(device)
	}
	return errors.Join(x.installPrefixes(x.m.Host), x.setInterface(id, record))
}

// sourceChoices are what numbered takes, and that an own address has no gateway in particular.
const sourceChoices = gatewaysPerDevice/2 + 2

// changeSources has a gateway of a device take what own addresses send.
func (x *run) changeSources(device, choice int) error {
	x.m.Host.Sources = make(map[netip.Addr]uint16)
	if number := choice % sourceChoices; number < sourceChoices-1 {
		for i, n := range networks {
			for _, own := range n.selves[:ownSelves] {
				x.m.Host.Sources[own] = x.numbered(device, number, i%2*gatewaysPerDevice/2)
			}
		}
	}
	return x.installPrefixes(x.m.Host)
}

// numbered is one of a device's gateways of a family, which begin at an index; 0: none.
func (x *run) numbered(device, choice, family int) uint16 {
	const perFamily = gatewaysPerDevice / 2
	number := choice % (perFamily + 1)
	id := gatewayID(device, family+number)
	if _, known := x.m.Host.Gateways[id]; number == perFamily || !known {
		return 0
	}
	return id
}
