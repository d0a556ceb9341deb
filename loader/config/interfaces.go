// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"

	"go.yaml.in/yaml/v3"
)

const (
	wantInterfaces = "a list of interfaces such as [{name: eth1}]"
	wantName       = `an interface name, alternative name or glob such as eth1 or "eth*"; put it into quotes`
)

func (c *Config) setInterfaces(v value) error {
	c.Interfaces = []Interface{}
	if err := v.atMost(maxInterfaces, "use globs"); err != nil {
		return err
	}
	lines, globs := make(map[string]int), 0
	err := v.list(wantInterfaces, func(item value) error {
		settings := Interface{NextHop: NextHopAuto}
		if err := settings.set(item); err != nil {
			return err
		}
		if first, twice := lines[settings.Name]; twice {
			return item.errorf("%q is configured twice, first on line %d: keep one", settings.Name, first)
		}
		lines[settings.Name] = item.line
		if IsGlob(settings.Name) {
			if globs++; globs > maxGlobs {
				return item.errorf("is one glob too many, at most %d are possible: use wider ones", maxGlobs)
			}
		}
		c.Interfaces = append(c.Interfaces, settings)
		return nil
	})
	if err == nil && len(c.Interfaces) == 0 {
		return v.errorf("an empty list manages nothing: list interfaces, or leave the key out to have them found")
	}
	return err
}

// set reads one interface.
func (i *Interface) set(v value) error {
	fields, named := i.fields(), false
	setName := fields[0].set
	fields[0].set = func(v value) error {
		named = true
		return setName(v)
	}
	err := v.object("a map", fields)
	if !named && v.node.Kind == yaml.MappingNode {
		err = errors.Join(err, v.errorf(`has no name: add one such as "name: eth1"`))
	}
	return err
}

func (i *Interface) fields() []field {
	return []field{
		{"name", checked(&i.Name, wantName, CheckInterfaceName)},
		{"mode", oneOf(&i.Mode, modes)},
		{"next_hop", oneOf(&i.NextHop, nextHops)},
		{"host_model", oneOf(&i.HostModel, hostModels)},
		{"gateways", i.setGateways},
	}
}

func (i *Interface) setGateways(v value) error {
	err := listOf(v, &i.Gateways, "a list of addresses such as [10.4.0.1]", maxGateways, "list those that are there",
		parsedBy("an address such as 10.4.0.1 or fe80::1", parseGateway))
	if err == nil && len(i.Gateways) == 0 {
		return v.errorf("an empty list names no gateway: list some, or leave the key out to have them found in the routing tables")
	}
	return err
}
