package loader

import (
	"fmt"

	"replypath/bpf"
	"replypath/loader/hostmaps"
)

// unknownWrites are those of tables whose settings nobody has written yet.
const unknownWrites = -1

// onlyKey is that of the only entry of an array that holds one.
const onlyKey = uint32(0)

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

// putSettingsBack puts settings of before in force. The generation stays: by one that was
// before, what has been refused meanwhile would be remembered when it comes again.
func (l *Loader) putSettingsBack(before bpf.DatapathSettings) error {
	actual, err := l.readSettings()
	if err != nil {
		return err
	}
	before.Generation = actual.Generation
	return l.putSettings(before)
}

// outdate makes void what has been refused since a generation, if there is a later one.
func (l *Loader) outdate(since uint32) error {
	settings, err := l.readSettings()
	if err != nil || settings.Generation == since {
		return err
	}
	settings.Generation++
	return l.putSettings(settings)
}

// writeSettings writes the configuration to where the programs read it. When it
// changes, or anything else that decides whether a flow is recorded, so does the
// generation: what the programs remember of refused tuples is then void.
func (l *Loader) writeSettings() error {
	actual, err := l.readSettings()
	if err != nil {
		return err
	}
	desired := hostmaps.Settings(l.config)
	desired.Repair = uint8(l.source.State())
	desired.Generation = actual.Generation
	if desired.Exclusions, err = l.maps.WriteExclusions(actual.Exclusions, l.config.Exclude); err != nil {
		return err
	}
	writes := l.maps.AdmissionWrites()
	if desired == actual && writes == l.generationWrites {
		return nil
	}
	put := func() error { return l.putInOrder(desired) }
	if l.widens(&actual, &desired) {
		err = l.putWhileWatched(put, l.inOrder()...)
	} else {
		err = put()
	}
	if err != nil {
		return err
	}
	l.generationWrites = writes
	return nil
}

// widens tells whether more is going to be recorded than by whoever wrote the settings.
func (l *Loader) widens(actual, desired *bpf.DatapathSettings) bool {
	if actual.Generation == 0 { // nobody has
		return false
	}
	before, after := l.maps.Exclusions(actual.Exclusions), l.maps.Exclusions(desired.Exclusions)
	return recordsMore(actual, desired, &before, &after)
}

// putInOrder writes the settings, and then that they are others: the kernel copies a value
// in no order that could be relied on, and nobody must remember under the new generation
// what was refused by the old list.
func (l *Loader) putInOrder(settings bpf.DatapathSettings) error {
	l.generationWrites = unknownWrites // until all is written
	if err := l.putSettings(settings); err != nil {
		return err
	}
	settings.Generation++
	return l.putSettings(settings)
}
