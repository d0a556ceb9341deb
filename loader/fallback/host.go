// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"log/slog"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/gateways"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what Routes work with. What it tells is of now, each time that it is asked.
type Host struct {
	Netlink    func() *netlink.Handle
	Datapath   func() *datapath.Datapath // whose programs are attached
	Attacher   func() attach.Means
	Enabled    func() bool        // by the configuration
	Interfaces func() []Interface // that are managed, by index
	NameOf     func(device int) string
	Gateways   func(device int) []*gateways.View
	Protocols  func() []uint8 // that are served

	Tx      *undo.Tx
	Journal *pins.Journal // Fallback is written
	Save    func() error  // writes the journal
	Log     *slog.Logger
	// AttachAgain returns what attaches programs again as they were.
	AttachAgain func(attach.Interface, attach.Mechanism, attach.Programs) func() error
	// RepairedRoute and RepairedPrograms count what somebody had taken away. Allowance bounds how often each is put back.
	RepairedRoute, RepairedPrograms func()
	Allowance                       func() *rate.Limiter
	// RetryAfter is how soon it is tried again to make a device of a kind that the kernel did not have.
	RetryAfter time.Duration
}

// Interface is one that is managed.
type Interface struct {
	discover.Interface
	Enforces bool
}

// enforcing are the managed interfaces whose replies are moved, or those that only observe.
func (h *Host) enforcing(enforces bool) []Interface {
	return slices.DeleteFunc(h.Interfaces(), func(i Interface) bool { return i.Enforces != enforces })
}

// view is what is known of the host's default routes.
type view struct {
	nexthop.Routers
	families []int // that have the fallback route
	planned  []int // that would have it if all interfaces were enforced
	bereft   []int // that have no other default route that is up
}

// tables are where the routes of a family are. IPv4 looks into the kernel's own table `default` behind main without a rule
// (fib_lookup() in include/net/ip_fib.h), so that no daemon is needed in the moment in which the last default route goes; but
// without one, what the host begins would take that as well.
func (v *view) tables(family int) []int {
	if family == unix.AF_INET && !slices.Contains(v.bereft, family) {
		return []int{Table, unix.RT_TABLE_DEFAULT}
	}
	return []int{Table}
}

func familyOf(a interface{ Is4() bool }) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// served are those of the families that lack none of their routes by the device.
func (v *view) served(device *Device, families []int, present []nexthop.OwnRoute) []int {
	if device == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(families), func(family int) bool {
		return slices.ContainsFunc(routesBy(device.hop(family), v.tables(family)...), func(route nexthop.OwnRoute) bool {
			return !slices.Contains(present, route)
		})
	})
}
