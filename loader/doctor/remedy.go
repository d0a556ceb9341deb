package doctor

import (
	"fmt"
	"strings"

	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// sysctl is a setting with the value that it should have.
type sysctl struct{ key, value string }

// fine makes a finding that all is in order. Without an interface it is about the
// host.
func fine(device, found string) Finding {
	return Finding{Severity: OK, Interface: orNil(device), Found: found}
}

// problem makes a finding that a person mends by what is replypath's own. fix says
// how, and is never empty: a command of replypath or its unit, or the line of the
// configuration to be set. What somebody else made is for seen.
func problem(severity Severity, device, found, fix string) Finding {
	return Finding{Severity: severity, Interface: orNil(device), Found: found, Fix: orNil(fix)}
}

// seen makes a finding about what somebody else made, or has to. No command that
// changes it is given, as that may take traffic away: inspect, which is never empty,
// only reads.
func seen(severity Severity, device, found, inspect string) Finding {
	return Finding{Severity: severity, Interface: orNil(device), Found: found, Inspect: orNil(inspect)}
}

// remedy is what to do about a problem: either of a fix or a command that only reads.
type remedy struct{ fix, inspect string }

// advised makes a finding of a problem whose remedy depends on the host.
func advised(severity Severity, device, found string, r remedy) Finding {
	f := problem(severity, device, found, r.fix)
	f.Inspect = orNil(r.inspect)
	return f
}

// of notes whose it seems to be; empty where nothing tells.
func (f Finding) of(owner string) Finding {
	f.Owner = orNil(owner)
	return f
}

// mending makes a finding that is mended by sysctls, of which there is at least
// one. Fix sets them.
func mending(severity Severity, device, found string, first sysctl, more ...sysctl) Finding {
	sysctls := append([]sysctl{first}, more...)
	words := []string{"sysctl", "-w"}
	for _, s := range sysctls {
		words = append(words, s.key+"="+s.value)
	}
	f := problem(severity, device, found, strings.Join(words, " "))
	f.sysctls, f.Automatic = sysctls, true
	return f
}

// of4 and of6 name a setting of an interface, or of "all".
func of4(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv4", name, leaf), value}
}

func of6(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv6", name, leaf), value}
}

// explained is a command with what there is to know before it is typed, as a
// comment of the shell.
func explained(command, why string) string { return command + "  # " + why }

// configure is what mends a finding by a change of the configuration.
func (h *Host) configure(change string) string {
	return fmt.Sprintf("%s in %s, then %s", change, quote(h.ConfigPath), h.reload())
}

// reload is the command that puts a changed configuration in force. The unit's
// reloads no daemon but its own, which uses the usual pin directory.
func (h *Host) reload() string {
	d := h.Daemon
	switch {
	case d != nil && d.PID != 0 && (!d.Unit || !h.isByUnit()):
		return fmt.Sprintf("kill -HUP %d", d.PID)
	case h.isByUnit():
		return "systemctl reload replypath"
	}
	return h.startAgain()
}

// start is the command that starts replypath, or starts it anew: by its unit, which
// uses the usual pin directory.
func (h *Host) start() string {
	if h.isByUnit() && h.Attached {
		return "systemctl restart replypath"
	}
	return h.startAgain()
}

func (h *Host) startAgain() string {
	if h.isByUnit() {
		return "systemctl start replypath"
	}
	return h.runWith(h.Config.Flags)
}

func (h *Host) isByUnit() bool { return h.PinDir == "" || h.PinDir == pins.DefaultDir }

// quote writes a word as the shell reads it.
func quote(word string) string {
	isPlain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@%+=,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !isPlain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
