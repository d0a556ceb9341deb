// SPDX-License-Identifier: Apache-2.0

package config

// Apply changes a configuration. An interface that the file configures, by its
// name or a glob, keeps its settings. Errors name the flag, and match ErrInvalid.
func (o Overrides) Apply(c *Config) error {
	if err := o.applyInterfaces(c); err != nil {
		return err
	}
	c.Flags = o
	if o.Enforce {
		c.Mode = ModeEnforce
	}
	if o.Observe {
		c.observe()
	}
	if o.Listen == nil {
		return nil
	}
	if err := checkListen(*o.Listen); err != nil {
		return &Error{Key: "--listen", Message: err.Error()}
	}
	c.Metrics.Listen = *o.Listen
	return nil
}

// Words are the flags, but for that of a trial, each as one argument.
func (o Overrides) Words() []string {
	var words []string
	for _, name := range o.Interfaces {
		words = append(words, "--interface", name)
	}
	if o.Observe {
		words = append(words, "--observe")
	}
	if o.Listen != nil {
		words = append(words, "--listen", *o.Listen)
	}
	if o.Mechanism != "" {
		words = append(words, "--mechanism", o.Mechanism)
	}
	return words
}

func (o Overrides) applyInterfaces(c *Config) error {
	if len(o.Interfaces) == 0 {
		return nil
	}
	chosen := make([]Interface, 0, len(o.Interfaces))
	seen := make(map[string]bool)
	for _, name := range o.Interfaces {
		if err := CheckInterfaceName(name); err != nil {
			return &Error{Key: "--interface", Message: err.Error()}
		}
		if !seen[name] {
			chosen = append(chosen, c.settingsOf(name))
		}
		seen[name] = true
	}
	c.Interfaces = chosen
	return nil
}

// settingsOf returns what the file says of an interface, or the defaults. Its
// own name goes before a glob.
func (c *Config) settingsOf(name string) Interface {
	for _, settings := range c.Interfaces {
		if settings.Name == name {
			return settings
		}
	}
	for _, settings := range c.Interfaces {
		if Match(settings.Name, name) {
			settings.Name = name
			return settings
		}
	}
	return Interface{Name: name, NextHop: NextHopAuto}
}

func (c *Config) observe() {
	c.Mode = ModeObserve
	for i := range c.Interfaces {
		c.Interfaces[i].Mode = ""
	}
}
