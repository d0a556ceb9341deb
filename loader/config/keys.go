package config

import (
	"log/slog"
	"slices"
	"strings"
)

// The values of every key that takes one of a few words.
var (
	modes      = []Mode{ModeEnforce, ModeObserve}
	follows    = []Follow{FollowPinned, FollowLatest, FollowValidated}
	scopes     = []Scope{ScopeLocal, ScopeAll}
	loopbacks  = []LoopbackAddresses{LoopbackKernel, LoopbackSymmetric}
	repairs    = []RepairUDPSource{RepairAuto, RepairTrue, RepairFalse}
	nextHops   = []NextHop{NextHopAuto, NextHopGateway, NextHopLastHop}
	logFormats = []string{FormatText, FormatJSON}
	logLevels  = []string{"debug", "info", "warn", "error"}
	slogLevels = []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	booleans   = []string{"true", "false"}
)

// fields are the keys of the file, in the order in which messages name them.
func (c *Config) fields() []field {
	return []field{
		{"interfaces", c.setInterfaces},
		{"ignore_interfaces", c.setIgnoreInterfaces},
		{"mode", oneOf(&c.Mode, modes)},
		{"follow", oneOf(&c.Follow, follows)},
		{"scope", oneOf(&c.Scope, scopes)},
		{"loopback_addresses", oneOf(&c.LoopbackAddresses, loopbacks)},
		{"exclude", c.setExclude},
		{"protocols", c.setProtocols},
		{"flow_table", c.setFlowTable},
		{"fallback_route", boolean(&c.FallbackRoute)},
		{"manage_rp_filter", boolean(&c.ManageRPFilter)},
		{"repair_udp_source", oneOf(&c.RepairUDPSource, repairs)},
		{"metrics", c.Metrics.set},
		{"log", c.Log.set},
	}
}

// oneOf sets a string to one of the words that are allowed. YAML's own true and
// false may be among them.
func oneOf[T ~string](target *T, allowed []T) func(value) error {
	return func(v value) error {
		word, ok := v.word()
		if !ok || !slices.Contains(allowed, T(word)) {
			return v.errorf("%s is not one of %s", v, list(allowed))
		}
		*target = T(word)
		return nil
	}
}

func boolean(target *bool) func(value) error {
	return func(v value) error {
		if v.node.ShortTag() != "!!bool" || v.node.Decode(target) != nil {
			return v.errorf("%s is not one of %s", v, list(booleans))
		}
		return nil
	}
}

// list joins words for a message.
func list[T ~string](words []T) string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = string(word)
	}
	return strings.Join(texts, ", ")
}

func (c *Config) setIgnoreInterfaces(v value) error {
	c.IgnoreInterfaces = []string{}
	if err := v.atMost(maxIgnored, "use globs"); err != nil {
		return err
	}
	return v.list(`a list of strings such as ["docker*"]`, func(item value) error {
		name, err := item.text("an interface name or glob; put it into quotes")
		if err != nil {
			return err
		}
		if err := checkName(name); err != nil {
			return item.errorf("%v", err)
		}
		c.IgnoreInterfaces = append(c.IgnoreInterfaces, name)
		return nil
	})
}

func (c *Config) setProtocols(v value) error {
	c.Protocols = []uint8{}
	err := v.list("a list of protocols such as [tcp, udp, icmp, icmpv6, sctp]", func(item value) error {
		number, err := item.protocol()
		if err != nil {
			return err
		}
		if slices.Contains(c.Protocols, number) {
			return item.errorf("%s is listed twice: keep one", item)
		}
		c.Protocols = append(c.Protocols, number)
		return nil
	})
	if err == nil && len(c.Protocols) == 0 {
		return v.errorf("an empty list serves nothing: list at least one of %s", protocolValues)
	}
	return err
}

// protocol returns the number of a protocol that can carry a flow.
func (v value) protocol() (uint8, error) {
	word, ok := v.word()
	if !ok {
		return 0, v.errorf("%s is not a protocol: use one of %s", v, protocolValues)
	}
	number, err := Protocol(word)
	switch {
	case err != nil:
		return 0, v.errorf("%v", err)
	case isExtensionHeader(number):
		return 0, v.errorf("%d is an ipv6 extension header: use one of %s", number, protocolValues)
	}
	return number, nil
}

func (c *Config) setFlowTable(v value) error {
	return v.object("a map", []field{{"max_entries", func(v value) error {
		number, err := v.integer(MinEntries, MaxEntries)
		if err == nil {
			c.MaxEntries = uint32(number)
		}
		return err
	}}})
}

func (m *Metrics) set(v value) error {
	m.Origin = v.origin()
	return v.object("a map", m.Origin.noted([]field{
		{"listen", func(v value) error {
			address, err := v.text(`an address such as "127.0.0.1:9945"`)
			if err != nil {
				return err
			}
			if err := checkListen(address); err != nil {
				return v.errorf("%v", err)
			}
			m.Listen = address
			return nil
		}},
		{"web_config_file", func(v value) error {
			path, err := v.text(`the absolute path of a file, or ""`)
			if err == nil && path != "" && !strings.HasPrefix(path, "/") {
				err = v.errorf("%s is not an absolute path: begin it with a slash", v)
			}
			m.WebConfigFile = path
			return err
		}},
	}))
}

func (l *Log) set(v value) error {
	return v.object("a map", []field{
		{"level", func(v value) error {
			var level string
			err := oneOf(&level, logLevels)(v)
			if err == nil {
				l.Level = slogLevels[slices.Index(logLevels, level)]
			}
			return err
		}},
		{"format", oneOf(&l.Format, logFormats)},
	})
}
