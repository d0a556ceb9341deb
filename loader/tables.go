package loader

import (
	"errors"
	"maps"

	"replypath/bpf"
)

// tables are the maps that tell the programs about the host.
type tables struct {
	interfaces  *mirror[uint32, bpf.DatapathInterface]
	managed     *mirror[uint32, uint32]
	gateways    *mirror[uint32, bpf.DatapathGateway]
	gatewayMACs *mirror[bpf.DatapathGatewayMac, uint32]
	routes      *mirror[bpf.DatapathRouteKey, uint32]
	onLink      *mirror[bpf.DatapathOnLinkKey, uint32]
	own         *mirror[bpf.DatapathAddress, uint32]
	exclusions  *mirror[uint32, bpf.DatapathExclusionSet]
}

// readTables reads what an earlier process left in the maps.
func readTables(m *bpf.DatapathMaps) (*tables, error) {
	t := new(tables)
	err := errors.Join(
		readMirror(&t.interfaces, bpf.DatapathMapInterfaces, m.Interfaces),
		readMirror(&t.managed, bpf.DatapathMapManaged, m.Managed),
		readMirror(&t.gateways, bpf.DatapathMapGateways, m.Gateways),
		readMirror(&t.gatewayMACs, bpf.DatapathMapGatewayMacs, m.GatewayMacs),
		readMirror(&t.routes, bpf.DatapathMapGatewayRoutes, m.GatewayRoutes),
		readMirror(&t.onLink, bpf.DatapathMapOnLink, m.OnLink),
		readMirror(&t.own, bpf.DatapathMapOwnAddresses, m.OwnAddresses),
		readMirror(&t.exclusions, bpf.DatapathMapExclusions, m.Exclusions),
	)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// admissionWrites counts the changes of what decides whether a flow is recorded,
// apart from the settings.
func (t *tables) admissionWrites() int { return t.own.writes + t.exclusions.writes }

// backup returns what puts the maps back as they are now.
func (t *tables) backup() func() error {
	restores := []func() error{
		t.exclusions.backup(), t.own.backup(), t.onLink.backup(), t.gateways.backup(),
		t.gatewayMACs.backup(), t.routes.backup(), t.interfaces.backup(), t.managed.backup(),
	}
	return func() error {
		var errs []error
		for _, restore := range restores {
			errs = append(errs, restore())
		}
		return errors.Join(errs...)
	}
}

// backup returns what puts the map back as it is now.
func (m *mirror[K, V]) backup() func() error {
	before := maps.Clone(m.actual)
	return func() error { return m.sync(before) }
}
