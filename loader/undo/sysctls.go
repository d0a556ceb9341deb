// SPDX-License-Identifier: Apache-2.0

package undo

import (
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"replypath/loader/hostsettings"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// Setting is a sysctl of an interface, whatever its name is now; of index 0, of none.
type Setting struct {
	Device       int // index
	Family, Leaf string
}

// SettingOf returns what a record is about.
func SettingOf(r pins.SysctlRecord) Setting {
	elements := strings.Split(r.Key, ".") // net, ipv4, conf, eth1, rp_filter: a name has no dots here
	return Setting{r.Interface, elements[1], elements[len(elements)-1]}
}

// Sysctls owns what was changed of the host's sysctls.
type Sysctls struct {
	Records    *[]pins.SysctlRecord // in the journal
	Save       func() error         // writes the journal
	Identities func() *identity.Resolver
	Tx         *Tx
	Log        *slog.Logger
	// Repaired counts a sysctl that somebody had set back. Allowance bounds how often each is changed again.
	Repaired  func()
	Allowance func() *rate.Limiter

	allowed map[Setting]*rate.Limiter
	values  map[string]int // when they were looked at last, by key
}

// Keep makes a planned change, and again where somebody else has set it back; true the first time. It writes down what
// it is about to do: should the process end in between, detach still knows the value from before.
func (s *Sysctls) Keep(change *hostsettings.Change) (made bool, err error) {
	record := pins.SysctlRecord{Interface: change.Interface, Key: change.Key, Before: change.Before, After: change.After}
	what := SettingOf(record)
	isIt := func(r pins.SysctlRecord) bool { return SettingOf(r) == what }
	if slices.ContainsFunc(*s.Records, isIt) {
		return false, s.repair(what, change)
	}
	*s.Records = append(*s.Records, record)
	if err := s.Save(); err != nil {
		return false, err
	}
	s.Tx.OnAbort(func() error { return s.Drop(isIt) })
	if err := change.Make(); err != nil {
		*s.Records = slices.DeleteFunc(*s.Records, isIt) // there is nothing to put back
		return false, errors.Join(err, s.Save())
	}
	return true, nil
}

// repair makes a change again, as often as the allowance lets it. What we found first stays what detach restores.
func (s *Sysctls) repair(what Setting, change *hostsettings.Change) error {
	if s.allowed == nil {
		s.allowed = make(map[Setting]*rate.Limiter)
	}
	if s.allowed[what] == nil {
		s.allowed[what] = s.Allowance()
	}
	if !s.allowed[what].Allow() {
		return nil
	}
	if err := change.Make(); err != nil {
		return err
	}
	delete(s.values, change.Key)
	s.Repaired()
	s.Log.Warn("a sysctl had been set back, changed again", "sysctl", change.Key, "value", change.After)
	return nil
}

// Drifted tells whether somebody has changed one of ours since it was looked at last: of most the kernel tells nobody.
func (s *Sysctls) Drifted() bool {
	drifted := false
	values := make(map[string]int)
	for _, r := range *s.Records {
		value, err := hostsettings.ReadNumber(r.Key)
		if err != nil {
			continue // the interface went, or has another name: there are events of that
		}
		values[r.Key] = value
		before, known := s.values[r.Key]
		drifted = drifted || strconv.Itoa(value) != r.After && (!known || value != before)
	}
	s.values = values
	return drifted
}

// Restore puts back what an earlier configuration, or state of the host, asked for. An open transaction postpones that.
func (s *Sysctls) Restore(which func(pins.SysctlRecord) bool) error {
	if !slices.ContainsFunc(*s.Records, which) {
		return nil
	}
	return s.Tx.Postpone(func() error { return s.Drop(which) })
}

// Drop puts changed sysctls back, the last one first, and forgets them. Those of an interface that has gone went with it.
func (s *Sysctls) Drop(which func(pins.SysctlRecord) bool) error {
	var errs []error
	identities := s.Identities()
	for i, r := range slices.Backward(*s.Records) {
		if !which(r) {
			continue
		}
		restored, err := identities.Restore(r)
		if restored != nil {
			s.Log.Info("sysctl restored", "sysctl", restored.Key, "value", restored.Before)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*s.Records = slices.Delete(*s.Records, i, i+1)
	}
	return errors.Join(errs...)
}

// DropOf does so with all of an interface that is not served any more.
func (s *Sysctls) DropOf(device int) error {
	for what := range s.allowed {
		if what.Device == device {
			delete(s.allowed, what)
		}
	}
	return s.Drop(func(r pins.SysctlRecord) bool { return r.Interface == device })
}
