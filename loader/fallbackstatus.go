package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
)

// isFallbackActive tells whether the fallback route of a family is all that the
// kernel has to go by.
func (l *Loader) isFallbackActive(family int) bool {
	r := &l.fallback
	return slices.Contains(r.families, family) && !slices.ContainsFunc(r.defaults, func(d nexthop.Default) bool {
		s := l.served[d.Interface]
		return d.Family == family && (s == nil || s.Up)
	})
}

// fallbackFeature describes the fallback routes for the status.
func (l *Loader) fallbackFeature() pins.FeatureRecord {
	f := pins.FeatureRecord{Name: "fallback_route", Available: !errors.Is(l.fallback.err, fallback.ErrNoKind)}
	r := &l.fallback
	switch {
	case !l.config.FallbackRoute:
		f.Effect = "off: replies end with the default route"
	case r.err != nil:
		f.Effect = "replies end with the default route: " + oneLine(r.err)
	case r.device == nil:
		f.Effect = "off: nothing is enforced"
	default:
		f.Effect = fmt.Sprintf("on: without a default route replies are built for %s, of kind %s, and moved off it",
			discover.OwnDevice, r.device.Kind)
		for _, s := range r.shadowed {
			f.Effect += fmt.Sprintf("; not for %s: its default route %s would never be used any more", fallback.Name(s.Family), s.Which)
		}
		if names := l.coveredDefaults(); len(names) > 0 {
			f.Effect += "; when the carrier is lost of " + strings.Join(names, ", ") +
				" only while a daemon runs, as another interface has a route to the same network"
		}
		if r.device.Plain {
			f.Effect += "; as the kernel is built without CONFIG_LWTUNNEL_BPF, masqueraded connections of containers " +
				"do not outlive that, and datagrams of sockets that are not connected are lost without an error"
		}
	}
	return f
}

// fallbackChanges tells of the device and its routes.
func fallbackChanges(r *pins.FallbackRecord) []HostChange {
	if r == nil || r.Index == 0 {
		return nil
	}
	return append([]HostChange{deviceChange()}, boundChanges(r.Bound)...)
}

// deviceChange is the same whatever kind of device the kernel has.
func deviceChange() HostChange {
	return HostChange{
		Object: "device " + discover.OwnDevice, Before: "none",
		After: fmt.Sprintf("default routes by it of metric %d, protocol %d", fallback.Metric, discover.OwnProtocol),
		Undo:  "ip link del " + discover.OwnDevice,
	}
}
