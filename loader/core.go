// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/gateways"
	"replypath/loader/hostmaps"
	"replypath/loader/interfaces"
	"replypath/loader/kernel"
	"replypath/loader/netfilter"
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
	Trial     time.Duration
	Passed    func()           // if not nil, is called each time that Run goes round, several times a second
	Mechanism attach.Mechanism // attach.Auto unless one is wanted
	object    *datapath.Object // loaded in place of the product's own, where a test wants another
}

// slowInterval is how often everything is looked at without an event.
const slowInterval = 30 * time.Second

// core is what all parts of the loader work with.
type core struct {
	opened
	record
	options Options
	log     *slog.Logger
	fresh   bool          // nothing was pinned before this start, which goes on
	wake    chan struct{} // tells Run that there may be something to do

	mu             sync.Mutex // guards all of the state, but options, log, wake and what is published
	config         *config.Config
	tx             undo.Tx          // of the start
	last           findings         // of the last reconciliation
	isReconfigured bool             // by the start, which has another configuration than the one before
	verifying      bool             // the next one looks at what is attached
	byHand         bpf.DatapathMode // the mode that was set by hand, as far as it is obeyed
	pinRepairs     *rate.Limiter

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
	readers   *netlink.Handle // of what is published: a handle makes who asks wait for who asked before
	attacher  attach.Means
	datapath  *datapath.Datapath
	maps      *hostmaps.Maps // its

	events     <-chan nexthop.Event // nil while they cannot be received
	stopEvents func()
	table      nexthop.Table // of the host's routes, which follows the events
	rules      netfilter.Watcher
}

// watch subscribes to events.
func (o *opened) watch() error {
	ctx, cancel := context.WithCancel(context.Background())
	events, err := nexthop.Watch(ctx)
	if err != nil {
		cancel()
		return err
	}
	o.events = events
	o.stopEvents = func() {
		cancel()
		for range events { // until its socket is closed
		}
	}
	return nil
}

// findings are what a reconciliation found.
type findings struct {
	missing     []string              // configured names that no interface has
	own         []discover.OwnAddress // of the host
	bystanders  discover.Bystanders   // which follow events
	headerless  bool                  // see discover.Result
	would       []pins.ChangeRecord   // what enforcing would change
	readingTook time.Duration         // how long it read the kernel's tables
}

func (l *core) datapathOptions(cfg *config.Config) datapath.Options {
	return datapath.Options{
		MaxEntries: cfg.MaxEntries, Seeds: bpf.Seeds(l.state.Seeds), Features: l.kernel.Features,
		Apart: l.state.Trial != nil, Object: l.options.object, Log: l.log,
	}
}

// poke has Run look whether there is something to do.
func (l *core) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// describeConfig notes which configuration is in force.
func (l *core) describeConfig() {
	l.state.Mode = string(l.config.Mode)
	l.state.ConfigPath = l.options.ConfigPath
	if encoded := l.config.Encode(); !bytes.Equal(encoded, l.state.Config) {
		l.state.Config, l.isReconfigured = encoded, true
	}
	l.state.LoadedAt = time.Now()
	l.state.ConfigErr = ""
}

// commit forgets the earlier datapath that is pinned aside.
func (l *core) commit() {
	if err := l.datapath.Commit(); err != nil {
		l.log.Error("pins of an earlier datapath are left", "error", err)
	}
}
