// Package loader puts the datapath in place, keeps its maps current, and takes
// it away again. What is attached and pinned outlives the process; the next one
// goes on with it.
package loader

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/fallback"
	"replypath/loader/gateways"
	"replypath/loader/hostmaps"
	"replypath/loader/interfaces"
	"replypath/loader/kernel"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/problems"
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
	opened
	record
	options Options
	log     *slog.Logger
	fresh   bool          // nothing was pinned before this start, which goes on
	wake    chan struct{} // tells Run that there may be something to do

	mu         sync.Mutex // guards what follows
	config     *config.Config
	tx         undo.Tx          // of the start
	last       findings         // by the last reconciliation
	verifying  bool             // the next one looks at what is attached
	byHand     bpf.DatapathMode // the mode that was set by hand, as far as it is obeyed
	pinRepairs *rate.Limiter

	// Each of these owns a part of the state.
	sysctls     *undo.Sysctls
	attachments *attachment.Attachments
	interfaces  *interfaces.Table
	gateways    *gateways.Table
	routes      *fallback.Routes
	source      *sourcerepair.Repair
}

// opened is what a start opens and Close closes. A reload may replace the datapath.
type opened struct {
	kernel    kernel.Kernel
	dir       *pins.Dir           // nil once it is closed
	namespace *pins.NamespaceLock // nil where a stranger has the lock
	netlink   *netlink.Handle
	attacher  attachment.Attacher
	datapath  *datapath.Datapath
	maps      *hostmaps.Maps // its

	events     <-chan nexthop.Event // nil while they cannot be received
	stopEvents func()
	asked      <-chan struct{} // a wildcard UDP socket was, by a peer
	stopAsked  func()
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
	if err := (start{l}).attempt(start{l}.steps()); err != nil {
		return nil, err
	}
	return l, nil
}

func newLoader(options Options) *Loader {
	l := &Loader{
		options: options,
		config:  options.Config,
		log:     options.Log,
		wake:    make(chan struct{}, 1),
		record:  record{problems: problems.New(options.Log)},

		pinRepairs: newAllowance(),
	}
	l.appointOwners()
	return l
}

// Scopes of problems. SetError has those of its callers.
const (
	scopeHost      = "host"      // what went wrong in the last reconciliation
	scopeWarning   = "warning"   // what the configuration asks for in vain so far
	scopeNamespace = "namespace" // why there was no reconciliation
)

// Close ends the ownership and closes what is open, after Run has returned. The
// datapath stays in place; what is changed for as long as a gateway is silent does not, as nobody
// sees its end.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.published.WithoutReaders(func() error {
		if l.dir == nil {
			return nil
		}
		l.stopEvents()
		l.stopAsked()
		l.state.PID = 0
		err := errors.Join(l.gateways.Leave(), l.save(), l.journal.Close(), l.datapath.Close(), l.dir.Close(), l.namespace.Close())
		l.netlink.Close()
		l.dir = nil
		l.published.Publish(nil)
		return err
	})
}

// SetError shows an error of another part of the process in the status for as
// long as it stands; nil ends it.
func (l *Loader) SetError(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.problems.Keep(name, nil)
	} else {
		l.problems.Keep(name, []string{name + ": " + oneLine(err)})
	}
	l.saveOrLog(l.log)
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
	l.saveOrLog(l.log)
}

// oneLine puts joined errors behind each other.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
