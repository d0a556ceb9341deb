package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/pins"
	"replypath/loader/source"
	"replypath/loader/status"
)

// sourceRepair is what the loader knows of the programs that give wildcard UDP
// sockets the source address that they were asked on.
type sourceRepair struct {
	state  bpf.DatapathSourceRepair // as the other programs are told
	err    error                    // why they are not attached although they should be
	wanted bool                     // a socket that needs them was found, or asked
	// due: sockets are looked for, and what failed is tried again.
	due bool
	// several: the host has more than one address to answer from.
	several bool
	// served is the datapath whose programs are attached; nil: an earlier
	// process's, or none.
	served    *datapath.Datapath
	namespace uint64 // cookie of the network namespace; 0: not known yet
	repairs   *rate.Limiter
}

// scopeSource is of problems with the source repair.
const scopeSource = "source"

// tendSource attaches the programs that repair source addresses, or takes them
// off, as the configuration says and the host's sockets need it. What cannot be
// done becomes a problem and is tried again by the slow timer.
func (l *Loader) tendSource() {
	r := &l.source
	attached, err := source.Attached(l.linksDir())
	if err == nil {
		err = l.arrangeSource(attached)
	}
	if r.due || err != nil {
		r.err = err
	}
	r.due = false
	l.problems.replace(scopeSource, slog.LevelWarn, messages([]error{r.err}))
	l.state.Features = append(l.kernel.Records(), l.sourceFeature(), l.fallbackFeature())
}

func (l *Loader) linksDir() string { return l.dir.Path(datapath.LinksDir) }

func (l *Loader) arrangeSource(attached bool) error {
	r := &l.source
	switch {
	case l.config.RepairUDPSource == config.RepairFalse || !slices.Contains(l.config.Protocols, unix.IPPROTO_UDP):
		r.wanted, r.err = false, nil
		return l.dropSource(attached)
	case len(l.enforced()) == 0:
		return errors.Join(l.planSource(), l.dropSource(attached))
	case attached && r.served == l.datapath:
		r.state = bpf.DatapathSourceRepairREPAIR_ON
		return nil
	case attached:
		return l.attachSource(true)
	}
	r.state = bpf.DatapathSourceRepairREPAIR_WATCH
	if !r.several {
		r.state = bpf.DatapathSourceRepairREPAIR_OFF
	}
	needed, err := l.needsSource()
	if !needed || err != nil {
		return err
	}
	return l.attachSource(false)
}

// needsSource tells whether the programs are to be attached: the configuration or a socket that was found, or asked, wants them.
func (l *Loader) needsSource() (_ bool, err error) {
	r := &l.source
	if !r.wanted && r.several && r.due && l.config.RepairUDPSource == config.RepairAuto {
		r.wanted, err = l.findWildcard()
	}
	return r.wanted || l.config.RepairUDPSource == config.RepairTrue, err
}

// planSource notes whether enforcing would attach them.
func (l *Loader) planSource() error {
	if l.source.due {
		l.source.wanted = false // a socket that was found before may have gone
	}
	needed, err := l.needsSource()
	if !needed || err != nil {
		return err
	}
	cgroup, err := source.Cgroup()
	if errors.Is(err, source.ErrNoCgroup) {
		return nil
	}
	if err == nil {
		l.wouldChange(status.SourceChange(cgroup))
	}
	return err
}

// attachSource attaches, or replaces what is attached. What has failed is left
// until it is due again, and nobody is told to watch for questions meanwhile.
// A start that may still fail leaves the programs of an earlier process on its maps
// where ours are others: nothing would take them back.
func (l *Loader) attachSource(attached bool) error {
	r := &l.source
	if r.err != nil && !r.due {
		return r.err
	}
	if attached && l.starting() && l.datapath.HasNewTables() {
		r.state, l.deferred = bpf.DatapathSourceRepairREPAIR_ON, true
		return nil
	}
	cgroup, fresh, err := l.putSource(l.datapath)
	if err != nil {
		if !attached {
			r.state = bpf.DatapathSourceRepairREPAIR_OFF
		}
		return fmt.Errorf("wildcard udp sockets answer from the address that the route picks: %w", err)
	}
	if fresh {
		l.rollback.add(func() error { _, err := source.Detach(l.linksDir()); return err })
		l.state.SourceCgroup = cgroup
	}
	switch {
	case fresh && r.served != nil:
		l.countRepair(repairProgram)
		l.log.Warn("programs had been taken off, attached again", "cgroup", cgroup)
	case fresh:
		l.log.Info("attached to repair the source address of udp answers", "cgroup", cgroup)
	}
	r.served, r.state = l.datapath, bpf.DatapathSourceRepairREPAIR_ON
	r.wanted = true // also those of an earlier process: whoever takes them off finds them back
	return nil
}

// putSource attaches the programs of a datapath in the place of earlier ones, or
// newly to the cgroup.
func (l *Loader) putSource(d *datapath.Datapath) (cgroup string, fresh bool, err error) {
	cgroup, err = source.Cgroup()
	if err != nil {
		return "", false, err
	}
	if err := l.identifyNamespace(cgroup); err != nil {
		return "", false, err
	}
	programs, err := d.Source(l.source.namespace)
	if err != nil {
		return "", false, err
	}
	fresh, err = source.Attach(l.linksDir(), cgroup, programs)
	return cgroup, fresh, err
}

// hasLostSource tells whether somebody has taken one of them off, unless that they could
// not be put back is known: the slow timer tries that again.
func (l *Loader) hasLostSource(now time.Time) bool {
	if l.source.served == nil || l.source.err != nil {
		return false
	}
	attached, err := source.Attached(l.linksDir())
	return err == nil && !attached && l.source.repairs.AllowN(now, 1)
}

func (l *Loader) identifyNamespace(cgroup string) (err error) {
	r := &l.source
	if r.namespace == 0 {
		r.namespace = l.state.Namespace.Cookie
	}
	if r.namespace == 0 {
		r.namespace, err = source.AskNamespace(cgroup)
	}
	return err
}

// replaceSource puts the programs of another datapath in the place of those that
// are attached, if any are.
func (l *Loader) replaceSource(by *datapath.Datapath) error {
	if l.source.served == nil {
		return nil
	}
	if _, _, err := l.putSource(by); err != nil {
		return err
	}
	l.source.served = by
	return nil
}

// dropSource takes the programs off. A start that may still fail leaves that
// for later.
func (l *Loader) dropSource(attached bool) error {
	r := &l.source
	r.state = bpf.DatapathSourceRepairREPAIR_OFF
	if attached && l.starting() {
		l.deferred = true
		return nil
	}
	removed, err := source.Detach(l.linksDir())
	if err != nil {
		return err
	}
	if removed {
		l.log.Info("the source address of udp answers is left to the route")
	}
	r.served, l.state.SourceCgroup = nil, ""
	return nil
}

// Ports that are asked by broadcast or multicast, or by neighbours only, which
// are no flows: DHCP, DHCPv6, mDNS (RFC 6762) and LLMNR (RFC 4795). Where
// somebody asks one of the last two otherwise, the first question tells.
var unasked = []uint16{67, 68, 546, 547, 5353, 5355}

// findWildcard looks for a socket that needs the source repair.
func (l *Loader) findWildcard() (bool, error) {
	ports, err := source.Wildcard()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(ports, func(port uint16) bool {
		return !slices.Contains(unasked, port) && !isExcludedPort(l.config, port)
	}), nil
}

// isExcludedPort tells whether no question to a port is recorded, whoever asks.
func isExcludedPort(cfg *config.Config, port uint16) bool {
	return slices.ContainsFunc(cfg.Exclude, func(e config.Exclusion) bool {
		return !e.Peer.IsValid() && !e.Self.IsValid() && (e.Protocol == 0 || e.Protocol == unix.IPPROTO_UDP) &&
			(e.SelfPort == 0 || e.SelfPort == port)
	})
}

// hasSeveral tells whether a family has more than one address that flows come
// in to.
func hasSeveral(own []discover.OwnAddress, cfg *config.Config) bool {
	var ipv4, ipv6 int
	for _, a := range own {
		switch {
		case a.LoopbackOnly && cfg.LoopbackAddresses == config.LoopbackKernel:
		case a.Address.Is4():
			ipv4++
		default:
			ipv6++
		}
	}
	return ipv4 > 1 || ipv6 > 1
}

// sourceFeature describes the source repair for the status.
func (l *Loader) sourceFeature() pins.FeatureRecord {
	f := pins.FeatureRecord{Name: "repair_udp_source", Available: true}
	r := &l.source
	switch {
	case errors.Is(r.err, source.ErrNoCgroup):
		f.Available = false
		f.Effect = "no cgroup2: wildcard udp sockets answer from the address that the route picks"
	case r.err != nil:
		f.Available = false
		f.Effect = strings.ReplaceAll(r.err.Error(), "\n", "; ")
	case r.state == bpf.DatapathSourceRepairREPAIR_ON:
		f.Effect = "on: wildcard udp sockets answer from the address that was asked"
	case r.state == bpf.DatapathSourceRepairREPAIR_WATCH:
		f.Effect = "waits for the first question to a wildcard udp socket"
	case l.config.RepairUDPSource != config.RepairFalse && len(l.enforced()) == 0:
		f.Effect = "off: nothing is enforced"
	case l.config.RepairUDPSource == config.RepairAuto && !r.several:
		f.Effect = "off: the host has one address to answer from"
	default:
		f.Effect = "off: wildcard udp sockets answer from the address that the route picks"
	}
	return f
}

// watchSource subscribes to questions that wildcard sockets are asked.
func (l *Loader) watchSource() (err error) {
	l.asked, l.stopAsked, err = source.Watch(l.datapath.RepairWanted)
	if err != nil {
		return err
	}
	l.rollback.add(func() error { l.stopAsked(); return nil })
	return nil
}

// socketAsked has the programs attached at once: whoever asked repeats the
// question soon.
func (r *runner) socketAsked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.source.state != bpf.DatapathSourceRepairREPAIR_WATCH {
		return
	}
	r.source.wanted, r.source.due = true, true
	r.tendSource()
	if err := r.writeSettings(); err != nil {
		r.log.Error("the source repair is not told to the programs", "error", err)
		r.changes.note(time.Now())
	}
	r.saveOrLog()
}
