// SPDX-License-Identifier: Apache-2.0

// Package sourcerepair decides when programs on the cgroup give wildcard UDP sockets the source address that they were
// asked on, and keeps them attached.
package sourcerepair

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/source"
	"replypath/loader/status"
	"replypath/loader/undo"
)

// Host is what a Repair works with.
type Host struct {
	Links   func() string // the directory of its pins
	Journal *pins.Journal // SourceCgroup is written, Namespace read
	Tx      *undo.Tx
	Log     *slog.Logger
	// Repaired counts programs that somebody had taken off, WouldChange notes what enforcing would do. Allowance
	// bounds how often they are put back.
	Repaired    func()
	WouldChange func(...status.HostChange)
	Allowance   *rate.Limiter
}

// Want is what a host is to have.
type Want struct {
	Config   *config.Config
	Enforces bool                  // on any interface
	Own      []discover.OwnAddress // of the host
	Datapath *datapath.Datapath    // whose programs are attached
}

// Repair owns the programs on the cgroup.
type Repair struct {
	host  Host
	want  Want
	state bpf.DatapathSourceRepair // as the other programs are told
	err   error                    // why they are not attached although they should be
	// wanted: a socket that needs them was found, or asked.
	wanted bool
	// due: sockets are looked for, and what failed is tried again.
	due bool
	// served is the datapath whose programs are attached; nil: an earlier process's, or none.
	served *datapath.Datapath
}

// New returns a Repair that looks for sockets with the first Reconcile.
func New(host Host, cfg *config.Config) *Repair {
	return &Repair{host: host, due: true, want: Want{Config: cfg}}
}

// LookAgain has the next Reconcile look for sockets, and try again what has failed.
func (r *Repair) LookAgain() { r.due = true }

// Forget has the next Reconcile look for sockets as in a start.
func (r *Repair) Forget() { r.wanted, r.due = false, true }

// State is what the other programs are told.
func (r *Repair) State() bpf.DatapathSourceRepair { return r.state }

// Reconcile attaches the programs, or takes them off, as the configuration says and the host's sockets need it. It returns
// what cannot be done, which is tried again after LookAgain, Forget or Asked.
func (r *Repair) Reconcile(want Want) error {
	r.want = want
	attached, err := source.Attached(r.host.Links())
	if err == nil {
		err = r.arrange(attached)
	}
	if r.due || err != nil {
		r.err = err
	}
	r.due = false
	return r.err
}

// watched is the key that the programs enter into the map of leads where a wildcard socket is asked while we wait for that.
const watched = uint64(bpf.DatapathLeadKindLEAD_WATCHED)

// Asked reconciles at once after a wildcard socket was asked: whoever asked repeats the question soon. Nothing happens where
// nobody waited for that, or nobody has asked, which it tells.
func (r *Repair) Asked(want Want) (asked bool, err error) {
	if r.state != bpf.DatapathSourceRepairREPAIR_WATCH {
		return false, nil
	}
	if err := want.Datapath.Leads.Lookup(watched, new(bpf.DatapathLead)); errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for who has asked: %w", err)
	}
	r.wanted, r.due = true, true
	return true, r.Reconcile(want)
}

func (r *Repair) arrange(attached bool) error {
	switch {
	case r.want.Config.RepairUDPSource == config.RepairFalse || !slices.Contains(r.want.Config.Protocols, unix.IPPROTO_UDP):
		r.wanted, r.err = false, nil
		return r.drop(attached)
	case !r.knowsNamespace():
		err := r.drop(attached)
		if r.want.Config.RepairUDPSource == config.RepairTrue {
			err = errors.Join(err, errors.New("repair_udp_source "+withoutCookie))
		}
		return err
	case !r.want.Enforces:
		return errors.Join(r.plan(), r.drop(attached))
	case attached && r.served == r.want.Datapath:
		r.state = bpf.DatapathSourceRepairREPAIR_ON
		return nil
	case attached:
		return r.attach(true)
	}
	r.state = bpf.DatapathSourceRepairREPAIR_WATCH
	if !r.several() {
		r.state = bpf.DatapathSourceRepairREPAIR_OFF
	}
	needed, err := r.isNeeded()
	if !needed || err != nil {
		return err
	}
	return r.attach(false)
}

const (
	asRouted      = "wildcard udp sockets answer from the address that the route picks"
	withoutCookie = "needs kernel 5.14: " + asRouted
)

// knowsNamespace tells whether the programs could tell this network namespace's sockets from those of others, by its cookie
// (SO_NETNS_COOKIE came with 5.14).
func (r *Repair) knowsNamespace() bool { return r.host.Journal.Namespace.Cookie != 0 }

// isNeeded tells whether the programs are to be attached: the configuration or a socket that was found, or asked, wants them.
func (r *Repair) isNeeded() (_ bool, err error) {
	if !r.wanted && r.several() && r.due && r.want.Config.RepairUDPSource == config.RepairAuto {
		r.wanted, err = r.findWildcard()
	}
	return r.wanted || r.want.Config.RepairUDPSource == config.RepairTrue, err
}

// plan notes whether enforcing would attach them.
func (r *Repair) plan() error {
	if r.due {
		r.wanted = false // a socket that was found before may have gone
	}
	needed, err := r.isNeeded()
	if !needed || err != nil {
		return err
	}
	cgroup, err := source.Cgroup()
	if errors.Is(err, source.ErrNoCgroup) {
		return nil
	}
	if err == nil {
		r.host.WouldChange(status.SourceChange(cgroup))
	}
	return err
}

// attach attaches, or replaces what is attached. What has failed is left
// until it is due again, and nobody is told to watch for questions meanwhile.
// A start that may still fail leaves the programs of an earlier process on its maps
// where ours are others: nothing would take them back.
func (r *Repair) attach(attached bool) error {
	if r.err != nil && !r.due {
		return r.err
	}
	if !attached || !r.want.Datapath.HasNewTables() {
		return r.place(attached)
	}
	r.state = bpf.DatapathSourceRepairREPAIR_ON
	return r.host.Tx.Postpone(func() error { return r.place(attached) })
}

// place attaches our programs, or replaces what is attached by them.
func (r *Repair) place(attached bool) error {
	cgroup, fresh, err := r.put(r.want.Datapath)
	if err != nil {
		if !attached {
			r.state = bpf.DatapathSourceRepairREPAIR_OFF
		}
		return fmt.Errorf(asRouted+": %w", err)
	}
	if fresh {
		r.host.Tx.OnAbort(func() error { _, err := source.Detach(r.host.Links()); return err })
		r.host.Journal.SourceCgroup = cgroup
	}
	switch {
	case fresh && r.served != nil:
		r.host.Repaired()
		r.host.Log.Warn("programs had been taken off, attached again", "cgroup", cgroup)
	case fresh:
		r.host.Log.Info("attached to repair the source address of udp answers", "cgroup", cgroup)
	}
	r.served, r.state = r.want.Datapath, bpf.DatapathSourceRepairREPAIR_ON
	r.wanted = true // also those of an earlier process: whoever takes them off finds them back
	return nil
}

// put attaches the programs of a datapath in the place of earlier ones, or
// newly to the cgroup.
func (r *Repair) put(d *datapath.Datapath) (cgroup string, fresh bool, err error) {
	cgroup, err = source.Cgroup()
	if err != nil {
		return "", false, err
	}
	programs, err := d.Source(r.host.Journal.Namespace.Cookie)
	if err != nil {
		return "", false, err
	}
	fresh, err = source.Attach(r.host.Links(), cgroup, programs)
	return cgroup, fresh, err
}

// HasLost tells whether somebody has taken one of them off, unless that they could
// not be put back is known: the slow timer tries that again.
func (r *Repair) HasLost(now time.Time) bool {
	if r.served == nil || r.err != nil {
		return false
	}
	attached, err := source.Attached(r.host.Links())
	return err == nil && !attached && r.host.Allowance.AllowN(now, 1)
}

// Replace puts the programs of another datapath in the place of those that
// are attached, if any are.
func (r *Repair) Replace(by *datapath.Datapath) error {
	if r.served == nil {
		return nil
	}
	if _, _, err := r.put(by); err != nil {
		return err
	}
	r.served = by
	return nil
}

// drop takes the programs off. A start that may still fail leaves that
// for later.
func (r *Repair) drop(attached bool) error {
	r.state = bpf.DatapathSourceRepairREPAIR_OFF
	if !attached {
		return r.remove()
	}
	return r.host.Tx.Postpone(r.remove)
}

func (r *Repair) remove() error {
	removed, err := source.Detach(r.host.Links())
	if err != nil {
		return err
	}
	if removed {
		r.host.Log.Info("the source address of udp answers is left to the route")
		// What is asked from now on tells whether they are needed again.
		err = r.want.Datapath.Leads.Delete(watched)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = nil
		}
	}
	r.served, r.host.Journal.SourceCgroup = nil, ""
	return err
}

// Ports of clients of DHCP and DHCPv6, and those that are asked by multicast, or by neighbours only, which are no flows:
// mDNS (RFC 6762) and LLMNR (RFC 4795). Where somebody asks one of them otherwise, the first question tells.
var unasked = []uint16{68, 546, 5353, 5355}

// findWildcard looks for a socket that needs the source repair.
func (r *Repair) findWildcard() (bool, error) {
	ports, err := source.Wildcard()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(ports, func(port uint16) bool {
		return !slices.Contains(unasked, port) && !isExcludedPort(r.want.Config, port)
	}), nil
}

// isExcludedPort tells whether no question to a port is recorded, whoever asks.
func isExcludedPort(cfg *config.Config, port uint16) bool {
	return slices.ContainsFunc(cfg.Exclude, func(e config.Exclusion) bool {
		return !e.Peer.IsValid() && !e.Self.IsValid() && (e.Protocol == 0 || e.Protocol == unix.IPPROTO_UDP) &&
			(e.SelfPort == 0 || e.SelfPort == port)
	})
}

// several tells whether a family has more than one address that flows come in to.
func (r *Repair) several() bool {
	var ipv4, ipv6 int
	for _, a := range r.want.Own {
		switch {
		case a.LoopbackOnly && r.want.Config.LoopbackAddresses == config.LoopbackKernel:
		case a.Address.Is4():
			ipv4++
		default:
			ipv6++
		}
	}
	return ipv4 > 1 || ipv6 > 1
}

// Feature describes the source repair for the status.
func (r *Repair) Feature() pins.FeatureRecord {
	f := pins.FeatureRecord{Name: "repair_udp_source", Available: true}
	switch {
	case !r.knowsNamespace():
		f.Available = false
		f.Effect = withoutCookie
	case errors.Is(r.err, source.ErrNoCgroup):
		f.Available = false
		f.Effect = "no cgroup2: " + asRouted
	case r.err != nil:
		f.Available = false
		f.Effect = problems.OneLine(r.err)
	case r.state == bpf.DatapathSourceRepairREPAIR_ON:
		f.Effect = "on: wildcard udp sockets reply from the address of the request"
	case r.state == bpf.DatapathSourceRepairREPAIR_WATCH:
		f.Effect = "waits for the first question to a wildcard udp socket"
	case r.want.Config.RepairUDPSource != config.RepairFalse && !r.want.Enforces:
		f.Effect = "off: nothing is enforced"
	case r.want.Config.RepairUDPSource == config.RepairAuto && !r.several():
		f.Effect = "off: the host has one address to answer from"
	default:
		f.Effect = "off: " + asRouted
	}
	return f
}
