// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"fmt"
	"slices"

	"replypath/loader/config"
)

// Entry returns the entry of the configuration that holds for an interface: the
// first that has its name, else the first that has an alternative name of it,
// else the first glob that matches any of them; nil for none.
func Entry(entries []config.Interface, name string, alternatives []string) *config.Interface {
	for _, names := range []func(config.Interface) bool{
		func(e config.Interface) bool { return e.Name == name },
		func(e config.Interface) bool { return slices.Contains(alternatives, e.Name) },
		func(e config.Interface) bool { return matches(e.Name, name, alternatives) },
	} {
		if i := slices.IndexFunc(entries, names); i >= 0 {
			return &entries[i]
		}
	}
	return nil
}

// matches tells whether a pattern stands for an interface, by its name or an alternative one.
func matches(pattern, name string, alternatives []string) bool {
	return config.Match(pattern, name) ||
		slices.ContainsFunc(alternatives, func(name string) bool { return config.Match(pattern, name) })
}

func (d *device) matches(pattern string) bool {
	return matches(pattern, d.name(), d.link.Attrs().AltNames)
}

// ignored names the first pattern of ignore_interfaces that matches.
func (d *device) ignored(patterns []string) string {
	if i := slices.IndexFunc(patterns, d.matches); i >= 0 {
		return fmt.Sprintf("ignore_interfaces %q", patterns[i])
	}
	return ""
}

// cutOut says why a device is not managed although an entry matches it:
// ignore_interfaces takes single interfaces out of a glob, "eth9" out of "eth*"
// or "docker*" out of "*". It does not undo an entry as a whole, neither a plain
// name nor "kube-lan*", which the default pattern "kube*" would swallow.
func (d *device) cutOut(entry *config.Interface, ignore []string) string {
	if !config.IsGlob(entry.Name) {
		return ""
	}
	return d.ignored(slices.DeleteFunc(slices.Clone(ignore), func(pattern string) bool {
		return config.Match(pattern, entry.Name)
	}))
}

// missing returns the names in the configuration that no device has. A glob names none.
func (ds *devices) missing(cfg *config.Config) []string {
	var names []string
	for _, entry := range cfg.Interfaces {
		has := func(d *device) bool { return d.matches(entry.Name) }
		if !config.IsGlob(entry.Name) && !slices.ContainsFunc(ds.list, has) {
			names = append(names, entry.Name)
		}
	}
	return names
}
