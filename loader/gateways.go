package loader

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/gateways"
	"replypath/loader/hostmaps"
	"replypath/loader/nexthop"
	"replypath/metrics"
)

// newGateways returns the owner of the known gateways.
func (l *Loader) newGateways() *gateways.Table {
	return gateways.New(gateways.Host{
		Netlink:  func() *netlink.Handle { return l.netlink },
		Datapath: func() *datapath.Datapath { return l.datapath },
		Attacher: func() gateways.Attacher { return l.attacher },
		Log:      l.log, Tx: &l.tx, Sysctls: l.sysctls, Journal: &l.state, Save: l.save,
		Interface: l.gatewayInterface, NameOf: l.nameOf, ChangeSysctl: l.keepSysctl,
		Repaired:      func() { l.countRepair(repairNeighbour) },
		WantsFallback: l.routes.Wanted, GivesWay: l.routes.GivesWay, Defaults: l.routes.Defaults, Renew: l.routes.Renew,
	})
}

// gatewayInterface is what of an interface decides about its gateways.
func (l *Loader) gatewayInterface(index int) gateways.Interface {
	s := l.served[index]
	if s == nil {
		return gateways.Interface{}
	}
	return gateways.Interface{
		Interface: s.target(), Up: s.Up, Enforces: s.enforces(), HasHeader: s.hasHeader(),
		Attached: s.mechanism != attach.Auto, Addresses: s.Addresses,
	}
}

func (l *Loader) nameOf(index int) string {
	if s := l.served[index]; s != nil {
		return s.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// neighbourChanged applies a neighbour event and tells whether it is about a
// gateway.
func (l *Loader) neighbourChanged(seen nexthop.Gateway) (bool, error) {
	isGateway, recorded := l.gateways.Neighbour(seen)
	if !isGateway {
		return false, nil
	}
	err := l.writeGateways()
	if recorded {
		err = errors.Join(err, l.save())
	}
	return true, err
}

// writeGateways writes the gateways and the interfaces.
func (l *Loader) writeGateways() error {
	all := l.gateways.All()
	entries, of := make(map[uint32]bpf.DatapathGateway), byInterface(all)
	for _, g := range all {
		entries[uint32(g.ID)] = gatewayEntry(g)
	}
	interfaces := make(map[uint32]bpf.DatapathInterface)
	for _, s := range l.served {
		interfaces[uint32(s.id)] = interfaceEntry(s, of[s.Index])
	}
	routes, _ := routeEntries(l.inOrder(), of)
	return l.maps.WriteWays(&hostmaps.Ways{
		Interfaces: interfaces, Gateways: entries, MACs: gatewayMACs(all), Routes: routes,
	})
}

// byInterface sorts gateways by the index of their interface, and leaves them in their order.
func byInterface(all []*gateways.View) map[int][]*gateways.View {
	of := make(map[int][]*gateways.View)
	for _, g := range all {
		of[g.Interface] = append(of[g.Interface], g)
	}
	return of
}

// gatewayFigures are by interface and address.
func (l *Loader) gatewayFigures() []metrics.Gateway {
	all := l.gateways.All()
	slices.SortFunc(all, func(a, b *gateways.View) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.Address.Compare(b.Address))
	})
	var list []metrics.Gateway
	for _, g := range all {
		list = append(list, metrics.Gateway{Interface: l.nameOf(g.Interface), Address: g.Address, Reachable: g.Answers})
	}
	return list
}
