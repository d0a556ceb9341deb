package loader

import (
	"errors"
	"fmt"
	"time"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
)

// Reload puts another configuration in force. No flow is lost but those that it
// does not serve. On error the one before stays in force; one that matches
// config.ErrInvalid blames the configuration.
func (l *Loader) Reload(cfg *config.Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Trial != nil {
		return errors.New("the datapath is on trial: confirm it first")
	}
	if err := l.check(cfg); err != nil {
		return err
	}
	before := l.config
	if cfg.MaxEntries != before.MaxEntries {
		if err := l.resize(cfg); err != nil {
			return fmt.Errorf("change the size of the flow tables: %w", err)
		}
	}
	l.config = cfg
	l.source.due = true
	if err := l.reconcile(); err != nil {
		l.config = before
		return errors.Join(err, l.reconcile())
	}
	l.describeConfig()
	l.poke()
	return errors.Join(l.flushUnserved(), l.save())
}

// poke has Run look whether there is something to do.
func (l *Loader) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// resize replaces the datapath by one with flow tables of another size.
func (l *Loader) resize(cfg *config.Config) error {
	resized, err := datapath.Load(l.dir, l.datapathOptions(cfg))
	if err != nil {
		return err
	}
	tables, err := readTables(&resized.DatapathMaps)
	if err == nil {
		err = l.switchTo(resized)
	}
	if err == nil {
		err = resized.Pin()
	}
	if err != nil {
		return errors.Join(err, l.switchBack(), resized.Unpin(), resized.Close())
	}
	if err := resized.Commit(); err != nil {
		l.log.Error("pins of the tables of another size are left", "error", err)
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	old := l.datapath
	l.datapath, l.tables = resized, tables
	return old.Close()
}

// switchPatience is how long the programs of all interfaces may take to be replaced.
// Those for devices without an Ethernet header, and those of the source repair,
// are only loaded then.
const switchPatience = 30 * time.Second

// switchTo attaches the programs of a datapath with other flow tables.
func (l *Loader) switchTo(to *datapath.Datapath) error {
	return inGrace(to, func() error {
		if err := to.Fill(); err != nil {
			return err
		}
		return l.replacePrograms(to)
	})
}

// switchBack attaches the programs of the datapath in force once more.
func (l *Loader) switchBack() error {
	return inGrace(l.datapath, func() error { return l.replacePrograms(l.datapath) })
}

// inGrace attaches the programs of a datapath with other flow tables. What was asked
// after the flows were copied, or by an interface whose turn has not come yet, is
// in tables that the programs which see the answer do not look at: the answer must
// not pass for a beginning.
func inGrace(to *datapath.Datapath, attach func() error) error {
	if err := to.Grace(switchPatience); err != nil {
		return err
	}
	return errors.Join(attach(), to.Grace(datapath.GracePeriod))
}

// replacePrograms attaches the programs of a datapath in the place of those that
// are attached.
func (l *Loader) replacePrograms(by *datapath.Datapath) error {
	var errs []error
	for _, s := range l.inOrder() {
		if s.mechanism == attach.Auto {
			continue
		}
		if _, err := l.put(by, s); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", s.Name, err))
		}
	}
	errs = append(errs, l.replaceSource(by), l.replaceFallback(by))
	return errors.Join(errs...)
}
