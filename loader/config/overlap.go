package config

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
)

// checkOverlaps refuses two globs that one interface can match and that want
// something different of it: which of them holds would hang on their order. What
// has an entry under its own name goes by that, whatever the globs say. Of each glob the first
// contradiction is told.
func (c *Config) checkOverlaps() error {
	var plain []string
	var globs []*Interface
	for i := range c.Interfaces {
		if entry := &c.Interfaces[i]; IsGlob(entry.Name) {
			globs = append(globs, entry)
		} else {
			plain = append(plain, entry.Name)
		}
	}
	var errs []error
	for i, second := range globs {
		for _, first := range globs[:i] {
			if err := c.checkOverlap(first, second, plain); err != nil {
				errs = append(errs, err)
				break
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkOverlap(first, second *Interface, plain []string) error {
	key := c.Difference(first, second)
	if key == "" {
		return nil
	}
	name := commonName(parseGlob(first.Name), parseGlob(second.Name), plain)
	if name == "" {
		return nil
	}
	return second.Errorf(key, "%q contradicts %s, as both stand for names such as %s: set the same %s in both, or use globs that share no name",
		second.Name, first.place(), name, key)
}

// Difference returns the first key in which two interfaces do not have the same
// effect, "" for none.
func (c *Config) Difference(a, b *Interface) string {
	switch {
	case cmp.Or(a.Mode, c.Mode) != cmp.Or(b.Mode, c.Mode):
		return "mode"
	case a.NextHop != b.NextHop:
		return "next_hop"
	case !sameGateways(a, b):
		return "gateways"
	}
	return ""
}

// sameGateways: their order makes no difference.
func sameGateways(a, b *Interface) bool {
	return len(a.Gateways) == len(b.Gateways) &&
		!slices.ContainsFunc(a.Gateways, func(g netip.Addr) bool { return !slices.Contains(b.Gateways, g) })
}
