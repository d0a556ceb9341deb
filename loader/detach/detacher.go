// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/vishvananda/netlink"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// detacher takes a datapath away.
type detacher struct {
	dir      *pins.Dir
	journal  *pins.Journal
	log      *slog.Logger
	netlink  *netlink.Handle
	attacher *attach.Attacher
	devices  *datapath.Devices // nil where there is no datapath
	removed  []string

	namespace *pins.NamespaceLock
}

func (d *detacher) open(links string) (err error) {
	d.netlink, err = dump.Open()
	if err != nil {
		return err
	}
	d.attacher = attach.New(links, d.netlink, attach.Auto)
	if d.dir != nil {
		d.devices = datapath.OpenDevices(d.dir.Path())
		d.nameNobody()
	}
	return nil
}

// nameNobody has the journal name no daemon: one that was killed is still named in it. Who looks at
// the pins meanwhile may be in a PID namespace where nothing else tells this process from it.
func (d *detacher) nameNobody() {
	if d.journal.PID == 0 {
		return
	}
	if err := writeOwnerless(d.dir, d.journal); err != nil {
		d.log.Warn("the daemon that is gone is still named in the journal", "error", err)
	}
}

// writeOwnerless writes a journal that names no daemon. That of before a trial ends the trial for good.
func writeOwnerless(dir *pins.Dir, state *pins.Journal) error {
	journal, _, err := pins.CreateJournal(dir)
	if err != nil {
		return err
	}
	state.PID = 0
	return errors.Join(journal.Write(state), journal.Close())
}

func (d *detacher) close() {
	d.namespace.Close()
	d.netlink.Close()
	if d.devices != nil {
		d.devices.Close()
	}
}

// identities tells the interfaces of a journal from others.
func (d *detacher) identities(of *pins.Journal) *identity.Resolver {
	return &identity.Resolver{Records: of.Interfaces, Devices: d.devices, Netlink: d.netlink, Log: d.log}
}

func (d *detacher) done(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	d.removed = append(d.removed, what)
	d.log.Info("removed " + what)
}
