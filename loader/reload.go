// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/hostmaps"
	"replypath/loader/undo"
)

// reload is a reload in progress.
type reload struct{ *core }

// to puts another configuration in force, see Loader.Reload.
func (l reload) to(cfg *config.Config) error {
	if l.state.Trial != nil {
		return errors.New("the datapath is on trial: confirm it first")
	}
	if err := check(l.netlink, cfg); err != nil {
		return err
	}
	if cfg.MaxEntries != l.config.MaxEntries {
		if err := l.resize(cfg); err != nil {
			return fmt.Errorf("change the size of the flow tables: %w", err)
		}
	}
	var tx undo.Tx
	if err := l.follow(cfg, &tx); err != nil {
		return errors.Join(err, tx.Abort())
	}
	l.describeConfig()
	l.publish()
	l.poke()
	l.flushUnserved() // the configuration is in force, whatever becomes of what it no longer serves
	l.saveOrLog(l.log)
	return nil
}

// follow has the host follow a configuration.
func (l reload) follow(cfg *config.Config, tx *undo.Tx) error {
	before := l.config
	tx.OnAbort(func() error {
		l.config = before
		return l.reconcile()
	})
	l.config = cfg
	l.source.LookAgain()
	l.table.MustRead() // what nobody has told is found when somebody asks for it
	return l.reconcile()
}

// resize replaces the datapath by one with flow tables of another size.
func (l reload) resize(cfg *config.Config) error {
	var tx undo.Tx
	resized, maps, err := l.replaceTables(cfg, &tx)
	if err != nil {
		return errors.Join(err, tx.Abort())
	}
	if err := resized.Commit(); err != nil {
		l.log.Error("pins of the tables of another size are left", "error", err)
	}
	old := l.datapath
	err = l.published.WithoutReaders(func() error {
		l.datapath, l.maps = resized, maps
		l.publish()
		return nil
	})
	return errors.Join(err, old.Close())
}

// replaceTables puts tables of another size, and the programs that use them, in the place of those in force.
func (l reload) replaceTables(cfg *config.Config, tx *undo.Tx) (resized *datapath.Datapath, maps *hostmaps.Maps, err error) {
	if resized, err = datapath.Load(l.dir, l.datapathOptions(cfg)); err != nil {
		return nil, nil, err
	}
	tx.OnAbort(resized.Close)
	if maps, err = hostmaps.Read(&resized.Maps); err != nil {
		return nil, nil, err
	}
	tx.OnAbort(resized.Unpin)
	tx.OnAbort(l.switchBack)
	if err = l.switchTo(resized); err != nil {
		return nil, nil, err
	}
	return resized, maps, resized.Pin()
}

// replacePrograms attaches the programs of a datapath in the place of those that
// are attached.
func (l *core) replacePrograms(by *datapath.Datapath) error {
	err := l.attachments.Replace(by, l.interfaces.Targets())
	// The programs of the fallback route's device find all flows.
	by.AddMissed()
	return errors.Join(err, l.routes.Replace(by), l.source.Replace(by))
}

// handOver attaches the programs of a datapath with other flow tables than the earlier one's.
func (l *core) handOver(to *datapath.Datapath, attach func() error) error {
	return to.InGrace(func() error {
		if err := to.Fill(); err != nil {
			return err
		}
		return attach()
	})
}

// switchTo attaches the programs of a datapath with other flow tables.
func (l reload) switchTo(to *datapath.Datapath) error {
	return l.handOver(to, func() error { return l.replacePrograms(to) })
}

// switchBack attaches the programs of the datapath in force once more.
func (l reload) switchBack() error {
	return l.datapath.InGrace(func() error { return l.replacePrograms(l.datapath) })
}

// check refuses a configuration that the interfaces which are there cannot
// follow, and what the maps cannot hold. Such errors match config.ErrInvalid.
func check(nl *netlink.Handle, cfg *config.Config) error {
	if len(cfg.Exclude) > config.MaxExclusions {
		return &config.Error{Key: "exclude", Message: fmt.Sprintf(
			"%d entries, at most %d are possible: use larger networks", len(cfg.Exclude), config.MaxExclusions)}
	}
	found, err := discover.ScanServed(nl, cfg, nil, discover.NewRoutes()) // whose routes make no difference
	if err != nil {
		return err
	}
	return found.Contradiction
}
