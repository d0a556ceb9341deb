// Package loader puts the datapath in place, keeps its maps current, and takes
// it away again. What is attached and pinned outlives the process; the next one
// goes on with it.
package loader

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/gateways"
	"replypath/loader/hostmaps"
	"replypath/loader/kernel"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/sourcerepair"
	"replypath/loader/undo"
)

// Options say what is put in place.
type Options struct {
	PinDir     string // on a bpf file system; made where it does not exist
	Config     *config.Config
	ConfigPath string // for the status; empty for the defaults
	Log        *slog.Logger
	Version    string // of the product, for the status
	// Trial, if not 0, is how long the datapath has until it is confirmed. What was
	// there before stays aside until Keep; TakeBack puts it back.
	Trial time.Duration
	// Mechanism is attach.Auto unless one is wanted.
	Mechanism attach.Mechanism
}

// Loader owns a datapath. It belongs to the network namespace of the thread that
// called New, and its methods have to be called in that namespace; apart from
// Close, they may be called from several goroutines.
type Loader struct {
	options Options
	log     *slog.Logger
	kernel  kernel.Kernel
	dir     *pins.Dir
	// namespace is nil where a stranger has the lock.
	namespace *pins.NamespaceLock
	fresh     bool // nothing was pinned before this start, which goes on
	journal   *pins.JournalMap
	netlink   *netlink.Handle

	events     <-chan nexthop.Event // nil while they cannot be received
	stopEvents func()
	asked      <-chan struct{} // a wildcard UDP socket was, by a peer
	stopAsked  func()
	wake       chan struct{} // tells Run that there may be something to do

	// reading keeps the datapath of a view open while its maps are read.
	reading sync.RWMutex
	view    atomic.Pointer[view] // nil once it is closed

	mu       sync.Mutex // guards what follows
	config   *config.Config
	datapath *datapath.Datapath
	maps     *hostmaps.Maps
	// generationWrites is maps.AdmissionWrites() at the last change of generation.
	generationWrites int
	attacher         attacher
	tx               undo.Tx // of the start
	problems         problems
	state            pins.Journal
	served           map[int]*served // by index
	missing          []string        // configured names that no interface has
	gateways         *gateways.Table
	removed          map[int]bool // interfaces that events said have gone, by index
	verifying        bool         // the next reconciliation looks at what is attached
	sysctls          *undo.Sysctls
	suspicious       bool // interfaces may be others than they were
	source           *sourcerepair.Repair
	ownAddresses     []discover.OwnAddress // of the host, as found last
	routes           *fallback.Routes
	pinRepairs       *rate.Limiter
	byHand           bpf.DatapathMode    // the mode that was set by hand, as far as it is obeyed
	would            []pins.ChangeRecord // what enforcing would change, as found so far by a reconciliation
	readingTook      time.Duration       // how long the last reconciliation read the kernel's tables
}

// New loads the programs, attaches them to every managed interface and makes the
// maps fit the host, all in the network namespace of the calling thread. Where a
// datapath is pinned already, it is taken over without losing a flow.
//
// On error what this call did is undone, and an earlier datapath stays as it
// was. The error matches config.ErrInvalid where the interfaces that are there
// cannot follow the configuration, ErrUnsupported where the process lacks a capability or the kernel a feature, pins.ErrNoBPFFS, ErrOwned or ErrForeignNamespace where
// these keep it from starting. It names the remedy.
func New(options Options) (*Loader, error) {
	if err := kernel.CheckRights(); err != nil {
		return nil, err
	}
	l := newLoader(options)
	if err := l.attempt(l.steps()); err != nil {
		return nil, err
	}
	return l, nil
}

func newLoader(options Options) *Loader {
	l := &Loader{
		options: options,
		config:  options.Config,
		// An earlier process may have ended between a change and its generation.
		generationWrites: unknownWrites,
		log:              options.Log,
		wake:             make(chan struct{}, 1),
		problems:         problems{log: options.Log, standing: make(map[string][]string)},
		served:           make(map[int]*served),
		removed:          make(map[int]bool),
		suspicious:       true,

		pinRepairs: newAllowance(),
	}
	l.source = l.newSourceRepair()
	l.sysctls = &undo.Sysctls{
		Records: &l.state.Sysctls, Save: l.save, Identities: l.identities, Tx: &l.tx, Log: l.log,
		Repaired: func() { l.countRepair(repairSysctl) }, Allowance: newAllowance,
	}
	l.routes = l.newRoutes()
	l.gateways = l.newGateways()
	return l
}

// Close ends the ownership and closes what is open, after Run has returned. The
// datapath stays in place; what is changed for as long as a gateway is silent does not, as nobody
// sees its end.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.dir == nil {
		return nil
	}
	l.stopEvents()
	l.stopAsked()
	l.state.PID = 0
	err := errors.Join(l.gateways.Leave(), l.save(), l.journal.Close(), l.datapath.Close(), l.dir.Close(), l.namespace.Close())
	l.netlink.Close()
	l.dir = nil
	l.view.Store(nil)
	return err
}

// SetError shows an error of another part of the process in the status for as
// long as it stands; nil ends it.
func (l *Loader) SetError(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.problems.keep(name, nil)
	} else {
		l.problems.keep(name, []string{name + ": " + oneLine(err)})
	}
	l.saveOrLog()
}

// ReportConfigError shows in the status why a later configuration was refused,
// until one is accepted; nil takes it back.
func (l *Loader) ReportConfigError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.ConfigErr = ""
	if err != nil {
		l.state.ConfigErr = oneLine(err)
	}
	l.publish()
	l.saveOrLog()
}

func (l *Loader) saveOrLog() {
	if err := l.save(); err != nil {
		l.log.Error("the status cannot be kept", "error", err)
	}
}

// oneLine puts joined errors behind each other.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
