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
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what Routes work with. What it tells is of now, each time that it is asked.
type Host struct {
	Netlink    func() *netlink.Handle
	Datapath   func() *datapath.Datapath // whose programs are attached
	Attacher   func() Attacher
	Enabled    func() bool           // by the configuration
	Interfaces func() []Interface    // that are managed, by index
	Enforces   func(device int) bool // whether replies are moved to it
	NameOf     func(device int) string
	Gateways   func(device int) []*gateways.View

	Tx      *undo.Tx
	Sysctls *undo.Sysctls
	Journal *pins.Journal // Fallback is written
	Save    func() error  // writes the journal
	Log     *slog.Logger
	// ChangeSysctl makes a planned change, or notes it where enforcing would make it; true the first time.
	ChangeSysctl func(*hostsettings.Change, error) (made bool, err error)
	// AttachAgain returns what attaches programs again as they were.
	AttachAgain func(attach.Interface, attach.Mechanism, attach.Programs) func() error
	// RepairedRoute and RepairedPrograms count what somebody had taken away. Allowance bounds how often each is put back.
	RepairedRoute, RepairedPrograms func()
	Allowance                       func() *rate.Limiter
	// RetryAfter is how soon it is tried again to make a device of a kind that the kernel did not have.
	RetryAfter time.Duration
}

// Attacher is what is asked of an attach.Attacher.
type Attacher interface {
	Attach(attach.Interface, attach.Programs) (attach.Result, error)
	Attached(attach.Interface, attach.Direction) (attach.Mechanism, bool, error)
	Detach(attach.Interface) error
	DetachFrom(attach.Interface, attach.Direction) error
	RemoveQdisc(attach.Interface) error
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
}

func familyOf(a interface{ Is4() bool }) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
