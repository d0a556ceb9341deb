package doctor

import (
	"fmt"
	"slices"
	"strings"

	"replypath/loader/config"
)

// missingInterfaces finds interfaces that the configuration, or the daemon's command line, calls by a
// name that nothing here has. Globs stand for whatever comes.
func missingInterfaces(h *Host) []Finding {
	var found []Finding
	for _, entry := range h.Config.Interfaces {
		if config.IsGlob(entry.Name) || h.hasName(entry.Name) {
			continue
		}
		text := fmt.Sprintf("interface %s, which %s names, is not there: nothing is done for it", entry.Name, h.whoNames(entry.Name))
		if near := h.nearName(entry.Name); near != "" {
			found = append(found, problem(Error, entry.Name, text+fmt.Sprintf("; %s is there", near), h.renamed(entry.Name, near)))
			continue
		}
		found = append(found, seen(Error, entry.Name, text+"; there are "+h.listNames(),
			explained("ip link show", "make it, or name one of these in "+h.whoNames(entry.Name))))
	}
	return found
}

// hasName tells whether an interface has a name, or an alternative name.
func (h *Host) hasName(name string) bool {
	return slices.ContainsFunc(h.Devices, func(d Device) bool { return d.Name == name || slices.Contains(d.AltNames, name) })
}

// whoNames says whether a flag or the file names an interface.
func (h *Host) whoNames(name string) string {
	if slices.Contains(h.Config.Flags.Interfaces, name) {
		return "--interface"
	}
	return h.ConfigPath
}

// nearName returns a name that is there and that a slip of the finger explains, empty for none.
func (h *Host) nearName(name string) string {
	var names []string
	for _, d := range h.Devices {
		if d.Name != "lo" && h.entryOf(d.Name) == nil { // else it is named already
			names = append(append(names, d.Name), d.AltNames...)
		}
	}
	return config.Nearest(name, names)
}

// mostNames bounds how many interfaces are listed: a host with containers has thousands.
const mostNames = 8

// listNames lists the interfaces that could have been meant, with their alternative names.
func (h *Host) listNames() string {
	var names []string
	for _, d := range h.Devices {
		if d.Name == "lo" {
			continue
		}
		name := d.Name
		if len(d.AltNames) > 0 {
			name += " (" + strings.Join(d.AltNames, ", ") + ")"
		}
		names = append(names, name)
	}
	if more := len(names) - mostNames; more > 0 {
		names = append(names[:mostNames], fmt.Sprintf("%d more", more))
	}
	if len(names) == 0 {
		return "none but lo"
	}
	return strings.Join(names, ", ")
}

// renamed is what has another interface be managed in the place of one that is not there.
func (h *Host) renamed(from, to string) string {
	if !slices.Contains(h.Config.Flags.Interfaces, from) {
		return h.configure(fmt.Sprintf("write %s in the place of %s under interfaces", yamlWord(to), yamlWord(from)))
	}
	flags := h.Config.Flags
	flags.Interfaces = slices.Clone(flags.Interfaces)
	for n, name := range flags.Interfaces {
		if name == from {
			flags.Interfaces[n] = to
		}
	}
	return h.startWith(flags)
}

// startWith starts replypath with other flags than it was started with.
func (h *Host) startWith(flags config.Overrides) string {
	if h.Daemon == nil {
		return h.runWith(flags)
	}
	return explained(h.runWith(flags), "in the place of the daemon that runs now")
}

// runWith is the command that starts replypath with flags.
func (h *Host) runWith(flags config.Overrides) string {
	words := []string{"replypath run"}
	if !h.isByUnit() {
		words = append(words, "--pin-dir", quote(h.PinDir))
	}
	if h.ConfigPath != "" && h.ConfigPath != config.DefaultPath {
		words = append(words, "--config", quote(h.ConfigPath))
	}
	for _, word := range flags.Words() {
		words = append(words, quote(word))
	}
	return strings.Join(words, " ")
}
