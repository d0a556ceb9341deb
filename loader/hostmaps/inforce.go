// SPDX-License-Identifier: Apache-2.0

package hostmaps

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"replypath/bpf"
	"replypath/loader/admission"
	"replypath/loader/config"
	"replypath/loader/datapath"
)

func (m *Maps) readSettings() (bpf.DatapathSettings, error) {
	var settings bpf.DatapathSettings
	if err := m.configuration.Get(&settings); err != nil {
		return settings, fmt.Errorf("read the settings: %w", err)
	}
	return settings, nil
}

func (m *Maps) putSettings(settings bpf.DatapathSettings) error {
	if err := m.configuration.Set(settings); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	return nil
}

// putSettingsBack puts settings of before in force, the exclusions of now last. The generation stays: by one that was
// before, what has been refused meanwhile would be remembered when it comes again.
func (m *Maps) putSettingsBack(before bpf.DatapathSettings) error {
	actual, err := m.readSettings()
	if err != nil {
		return err
	}
	before.Generation, before.RoutingGeneration = actual.Generation, actual.RoutingGeneration
	first := before
	first.Exclusions[actual.InForce] = actual.Exclusions[actual.InForce]
	return errors.Join(m.putSettings(first), m.putSettings(before))
}

// Limit has the programs observe after a time, which a trial has; 0: never.
func (m *Maps) Limit(after time.Duration) error {
	settings, err := m.readSettings()
	now, clockErr := datapath.Now()
	if err := errors.Join(err, clockErr); err != nil {
		return err
	}
	if settings.Until = 0; after != 0 {
		settings.Until = now + uint64(after)
	}
	return m.putSettings(settings)
}

// outdateDecisions makes void what the programs decided for what the host originates, if anything has changed that they
// decide by.
func (m *Maps) outdateDecisions() error {
	settings, err := m.readSettings()
	if err != nil {
		return err
	}
	writes := m.decisiveWrites(&settings)
	if writes == m.decidedBy {
		return nil
	}
	settings.RoutingGeneration = max(1, settings.RoutingGeneration+1) // 0 is for never
	if err := m.putSettings(settings); err != nil {
		return err
	}
	m.decidedBy = writes
	return nil
}

// outdate makes void what the programs remember of who was refused, of who was admitted, and of what the host originates.
func (m *Maps) outdate() error {
	settings, err := m.readSettings()
	if err != nil {
		return err
	}
	settings.Generation++
	settings.RoutingGeneration = max(1, settings.RoutingGeneration+1)
	return m.putSettings(settings)
}

// Backup returns what puts the maps and the settings back as they are now. What the programs remember is void at the end.
func (m *Maps) Backup() (restore func() error, err error) {
	before, err := m.readSettings()
	if err != nil {
		return nil, err
	}
	interfaces := maps.Clone(m.Interfaces.actual)
	restores := []func() error{
		m.Own.backup(), m.Served.backup(), m.OnLink.backup(), m.Gateways.backup(), m.gatewayMACs.backup(), m.routes.backup(),
		func() error { return m.syncInterfaces(interfaces) },
	}
	return func() error {
		errs := []error{m.putSettingsBack(before)}
		for _, restore := range restores {
			errs = append(errs, restore())
		}
		return errors.Join(append(errs, m.outdate())...)
	}, nil
}

// Admission returns the rules in force by which flows are recorded.
func (m *Maps) Admission() (*admission.Rules, error) {
	settings, err := m.readSettings()
	if err != nil {
		return nil, err
	}
	own := func(a netip.Addr) bpf.DatapathOwnFlags {
		flags, _ := m.Own.Get(a.As16())
		return bpf.DatapathOwnFlags(flags)
	}
	takes := make(map[uint16]bpf.DatapathTakes)
	for _, i := range m.Interfaces.actual {
		takes[i.Id] = bpf.DatapathTakes(i.Takes)
	}
	return &admission.Rules{Settings: settings, Own: own, Prefixes: m.Served.table, Takes: takes}, nil
}

// WriteSettings writes the configuration, and the state of the source repair, to where the programs read it. When it
// changes, or anything else that decides whether a flow is recorded, so does the generation: what the programs remember of
// refused tuples is then void. Where more is going to be recorded than by whoever wrote the settings, `widen` is asked to
// do so.
func (m *Maps) WriteSettings(cfg *config.Config, repair bpf.DatapathSourceRepair, widen func(put func() error) error) error {
	actual, err := m.readSettings()
	if err != nil {
		return err
	}
	desired := settings(cfg)
	desired.Repair = uint8(repair)
	desired.Generation, desired.RoutingGeneration, desired.Until = actual.Generation, actual.RoutingGeneration, actual.Until
	if err := m.writeExclusions(&actual, &desired, exclusionSet(cfg.Exclude)); err != nil {
		return err
	}
	writes := m.admissionWrites()
	if desired == actual && writes == m.generationWrites {
		return nil
	}
	put := func() error { return m.putInOrder(desired) }
	if m.recordsMore(&actual, &desired) {
		err = widen(put)
	} else {
		err = put()
	}
	if err == nil {
		m.generationWrites, m.namesMore = writes, false
	}
	return err
}

// writeExclusions has the desired settings name a set with these exclusions. Where the one in force has others, they are
// written to the other one, so that no packet meets half of them.
func (m *Maps) writeExclusions(actual, desired *bpf.DatapathSettings, set bpf.DatapathExclusionSet) error {
	desired.InForce, desired.Exclusions = actual.InForce, actual.Exclusions
	if actual.Exclusions[actual.InForce] == set {
		return nil
	}
	desired.InForce = (actual.InForce + 1) % uint32(len(desired.Exclusions))
	desired.Exclusions[desired.InForce] = set
	actual.Exclusions = desired.Exclusions
	return m.putSettings(*actual)
}

// recordsMore tells whether settings let flows be recorded that those before, if somebody wrote them, did not.
func (m *Maps) recordsMore(before, after *bpf.DatapathSettings) bool {
	if before.Generation == 0 {
		return false
	}
	for i := range before.Protocols {
		if after.Protocols[i]&^before.Protocols[i] != 0 {
			return true
		}
	}
	if m.namesMore || after.ScopeAll > before.ScopeAll || after.Loopback > before.Loopback {
		return true
	}
	excludedBefore, excludedAfter := before.Exclusions[before.InForce], after.Exclusions[after.InForce]
	return slices.ContainsFunc(excludedBefore.Rule[:excludedBefore.Count], func(rule bpf.DatapathExclusion) bool {
		return !slices.Contains(excludedAfter.Rule[:excludedAfter.Count], rule)
	})
}

// putInOrder writes the settings, and then that they are others: a value is copied
// in no order that could be relied on, and nobody must remember under the new generation
// what was refused by the old list. What is decided for what the host originates is void at once, before interfaces change.
func (m *Maps) putInOrder(settings bpf.DatapathSettings) error {
	m.generationWrites = unknownWrites // until all is written
	if err := m.putSettings(settings); err != nil {
		return err
	}
	settings.Generation++
	settings.RoutingGeneration = max(1, settings.RoutingGeneration+1)
	return m.putSettings(settings)
}

// admissionWrites counts the changes of what decides whether a flow is recorded,
// apart from the settings.
func (m *Maps) admissionWrites() int { return m.Own.writes + m.Served.writes }

// decisiveWrites counts the changes of what decides where that goes which the host originates.
func (m *Maps) decisiveWrites(settings *bpf.DatapathSettings) int {
	return m.admissionWrites() + m.OnLink.writes + m.routes.writes + m.Interfaces.writes + int(settings.Generation)
}

// unknownWrites are those of tables whose settings this process has not written yet: an earlier one may have ended
// between a change and its generation.
const unknownWrites = -1
