package loader

import (
	"fmt"

	"replypath/bpf"
)

func (l *Loader) readSettings() (bpf.DatapathSettings, error) {
	var settings bpf.DatapathSettings
	if err := l.datapath.Configuration.Lookup(onlyKey, &settings); err != nil {
		return settings, fmt.Errorf("read the settings: %w", err)
	}
	return settings, nil
}

func (l *Loader) putSettings(settings bpf.DatapathSettings) error {
	if err := l.datapath.Configuration.Put(onlyKey, settings); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	return nil
}

// writeSettings writes the configuration to where the programs read it. When it
// changes, or anything else that decides whether a flow is recorded, so does the
// generation: what the programs remember of refused tuples is then void.
func (l *Loader) writeSettings() error {
	actual, err := l.readSettings()
	if err != nil {
		return err
	}
	desired := settingsEntry(l.config)
	desired.Repair = uint8(l.source.state)
	desired.Generation = actual.Generation
	writes := l.tables.admissionWrites()
	if desired == actual && writes == l.generationWrites {
		return nil
	}
	desired.Generation++
	if err := l.putSettings(desired); err != nil {
		return err
	}
	l.generationWrites = writes
	return nil
}
