package loader

import (
	"errors"
	"fmt"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/hostmaps"
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
	l.source.LookAgain()
	if err := l.reconcile(); err != nil {
		l.config = before
		return errors.Join(err, l.reconcile())
	}
	l.describeConfig()
	l.publish()
	l.poke()
	l.flushUnservedOrLog() // the configuration is in force, whatever becomes of what it no longer serves
	l.saveOrLog(l.log)
	return nil
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
	// Else there would be three sets of tables at once.
	if err := l.datapath.StopAsking(); err != nil {
		return err
	}
	resized, err := datapath.Load(l.dir, l.datapathOptions(cfg))
	if err != nil {
		return err
	}
	maps, err := hostmaps.Read(&resized.DatapathMaps)
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
	old := l.datapath
	return l.published.WithoutReaders(func() error {
		l.datapath, l.maps = resized, maps
		l.publish()
		return old.Close()
	})
}

// replacePrograms attaches the programs of a datapath in the place of those that
// are attached.
func (l *Loader) replacePrograms(by *datapath.Datapath) error {
	return errors.Join(
		l.replaceFallback(by), l.haveRoutesAsk(by), l.attachments.Replace(by, l.interfaces.Places()), l.source.Replace(by))
}
