// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/hostmaps"
	"replypath/loader/problems"
	"replypath/loader/undo"
)

// reload is a reload in progress.
type reload struct{ *core }

// to puts another configuration in force, see Loader.Reload.
func (l reload) to(cfg *config.Config) error {
	if l.state.Trial != nil {
		return errors.New("the datapath is on trial: confirm it first")
	}
	var tx undo.Tx
	before := l.datapath
	if err := l.follow(cfg, &tx); err != nil {
		problems.LogStack(l.log, err)
		return errors.Join(err, tx.Abort())
	}
	l.leave(before)
	l.state.ForgetGone()
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
	if cfg.MaxEntries != before.MaxEntries {
		if err := l.resize(cfg, tx); err != nil {
			return fmt.Errorf("change the size of the flow tables: %w", err)
		}
	}
	l.config = cfg
	l.source.LookAgain()
	l.table.MustRead() // what nobody has told is found when somebody asks for it
	return l.reconcile()
}

// resize puts tables of another size, and the programs that use them, in the place of those in force, which stay aside.
func (l reload) resize(cfg *config.Config, tx *undo.Tx) error {
	resized, err := datapath.Load(l.dir, l.datapathOptions(cfg))
	if err != nil {
		return err
	}
	tx.OnAbort(resized.Close)
	maps, err := hostmaps.Read(&resized.Maps)
	if err != nil {
		return err
	}
	tx.OnAbort(resized.Unpin)
	before, mapsBefore := l.datapath, l.maps
	tx.OnAbort(func() error { return l.switchBack(before, mapsBefore) })
	if err := l.switchTo(resized); err != nil {
		return err
	}
	if err := resized.Pin(); err != nil {
		return err
	}
	return l.use(resized, maps)
}

// use makes a datapath the one in force.
func (l reload) use(d *datapath.Datapath, maps *hostmaps.Maps) error {
	return l.published.WithoutReaders(func() error {
		l.datapath, l.maps = d, maps
		l.publish()
		return nil
	})
}

// leave ends with the datapath of before, where another one has replaced it. What is left of it is no reason to refuse the
// configuration, which is in force.
func (l reload) leave(before *datapath.Datapath) {
	if before == l.datapath {
		return
	}
	l.commit()
	if err := before.Close(); err != nil {
		l.log.Error("tables of another size are left open", "error", err)
	}
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

// switchBack makes a datapath of before the one in force again, with what its maps hold by now. Flows that began meanwhile are
// entered with their next packet.
func (l reload) switchBack(to *datapath.Datapath, maps *hostmaps.Maps) error {
	now, err := hostmaps.Read(&to.Maps)
	if err == nil {
		maps = now
	}
	return errors.Join(err, l.use(to, maps), to.InGrace(func() error { return l.replacePrograms(to) }))
}
