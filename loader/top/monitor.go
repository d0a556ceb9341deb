package top

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"replypath/bpf"
	"replypath/loader"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// Monitor looks at a datapath again and again. It is not safe for concurrent use.
type Monitor struct {
	dir   string
	limit int

	opened *os.File // the directory of the maps
	maps   *bpf.DatapathMaps
	meter  flows.Meter
	at     time.Time // of the last look; zero before the first
	before counts
}

// Open opens the datapath that is pinned in a directory, in the network namespace
// of the calling thread, which has to be the one that it works for. Each look is
// to show so many flows of every order. The error matches loader.ErrNotAttached
// where nothing is pinned.
func Open(pinDir string, limit int) (*Monitor, error) {
	m := &Monitor{dir: pinDir, limit: limit}
	if err := m.open(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close closes what is open; it may be called twice.
func (m *Monitor) Close() error {
	var errs []error
	if m.maps != nil {
		errs = append(errs, m.maps.Close())
	}
	if m.opened != nil {
		errs = append(errs, m.opened.Close())
	}
	m.maps, m.opened = nil, nil
	return errors.Join(errs...)
}

// open opens the maps that are pinned now. The counters of an earlier datapath go
// on in them.
func (m *Monitor) open() error {
	if err := m.Close(); err != nil {
		return err
	}
	opened, err := os.Open(m.mapsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open the directory of the maps: %w", err)
	}
	if err == nil {
		m.opened = opened
	}
	m.maps, err = datapath.OpenMaps(m.dir)
	return err
}

func (m *Monitor) mapsDir() string { return filepath.Join(m.dir, datapath.MapsDir) }

// isCurrent tells whether no other datapath took the place of the one that is
// open, as every start of the daemon does.
func (m *Monitor) isCurrent() bool { return m.opened != nil && pins.IsAt(m.opened, m.mapsDir()) }

// Look tells what happened since the look before. The error matches
// loader.ErrNotAttached once the datapath was detached.
func (m *Monitor) Look() (*Look, error) {
	if !m.isCurrent() {
		if err := m.open(); err != nil {
			return nil, err
		}
	}
	at := time.Now()
	traffic, err := loader.ReadTraffic(m.dir, m.maps)
	if err != nil {
		return nil, err
	}
	measure, err := m.meter.Read(m.dir, m.maps, m.limit)
	if err != nil {
		return nil, err
	}
	look := &Look{Time: at}
	if !m.at.IsZero() {
		look.Seconds = at.Sub(m.at).Seconds()
	}
	now := newCounts(traffic)
	look.setTraffic(traffic)
	look.setRates(now.since(m.before))
	look.setFlows(measure)
	m.at, m.before = at, now
	return look, nil
}
