package config

import "fmt"

// Origin is where the file configures an interface, so that what turns out to be
// wrong with it later, on the host, is blamed on its line too. The zero Origin is
// that of an interface which no file configures.
type Origin struct {
	File  string
	Key   string         // "interfaces[0]"
	Line  int            // where the interface begins
	Lines map[string]int // of its keys
}

// Errorf blames a key of the interface, "next_hop" for instance, that need not be
// set there. The error matches ErrInvalid.
func (i *Interface) Errorf(key, format string, args ...any) error {
	e := &Error{Message: fmt.Sprintf(format, args...)}
	if i.Origin.Key == "" {
		e.Key = "--interface"
		return e
	}
	e.File, e.Key, e.Line = i.Origin.File, i.Origin.Key+"."+key, i.Origin.Line
	if line, set := i.Origin.Lines[key]; set {
		e.Line = line
	}
	return e
}

// place names the interface in a message about another one: by its line, where
// a file configures it.
func (i *Interface) place() string {
	if i.Origin.Line == 0 {
		return fmt.Sprintf("%q", i.Name)
	}
	return fmt.Sprintf("%q on line %d", i.Name, i.Origin.Line)
}

// noted is a field that leaves its line in the origin of the interface.
func (i *Interface) noted(f field) field {
	return field{f.name, func(v value) error {
		i.Origin.Lines[f.name] = v.line
		return f.set(v)
	}}
}
