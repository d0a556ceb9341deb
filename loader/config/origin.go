package config

import "fmt"

// Origin is where the file has a map of keys, so that what turns out to be wrong
// with one of them later, on the host, is blamed on its line too. The zero Origin is
// that of settings which no file makes.
type Origin struct {
	File  string
	Key   string         // "interfaces[0]"
	Line  int            // where the map begins
	Lines map[string]int // of its keys
}

func (v value) origin() Origin {
	return Origin{File: v.file, Key: v.key, Line: v.line, Lines: make(map[string]int)}
}

// blame returns an error about a key, "next_hop" for instance, that need not be set
// there.
func (o *Origin) blame(key, message string) *Error {
	e := &Error{File: o.File, Key: o.Key + "." + key, Line: o.Line, Message: message}
	if line, set := o.Lines[key]; set {
		e.Line = line
	}
	return e
}

// noted makes the fields leave their lines in the origin.
func (o *Origin) noted(fields []field) []field {
	all := make([]field, len(fields))
	for i, f := range fields {
		all[i] = field{f.name, func(v value) error {
			o.Lines[f.name] = v.line
			return f.set(v)
		}}
	}
	return all
}

// Errorf blames a key of the interface. The error matches ErrInvalid.
func (i *Interface) Errorf(key, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if i.Origin.Key == "" {
		return &Error{Key: "--interface", Message: message}
	}
	return i.Origin.blame(key, message)
}

// Place names the interface in a message about another one: by its line, where
// a file configures it.
func (i *Interface) Place() string {
	if i.Origin.Line == 0 {
		return fmt.Sprintf("%q", i.Name)
	}
	return fmt.Sprintf("%q on line %d", i.Name, i.Origin.Line)
}

// BlameWebConfig blames WebConfigFile for what is wrong with the file that it
// names. The error matches ErrInvalid, and the cause.
func (m *Metrics) BlameWebConfig(cause error) error {
	e := m.Origin.blame("web_config_file", cause.Error()+`: name a valid web configuration, or "" for none`)
	e.Err = cause
	return e
}

// Same tells whether both ask for the same, on whatever line.
func (m *Metrics) Same(other *Metrics) bool {
	return m.Listen == other.Listen && m.WebConfigFile == other.WebConfigFile
}
