// SPDX-License-Identifier: Apache-2.0

// Package config is the configuration of replypath: its types and defaults,
// the YAML file that sets them, and the rules that a value must keep.
package config

import (
	_ "embed" // for Example
	"log/slog"
	"net/netip"
)

// DefaultPath is where the configuration file is looked for. The file need not
// exist: Default is then in force.
const DefaultPath = "/etc/replypath/replypath.yaml"

// Example is a file that uses every key.
//
//go:embed example.yaml
var Example string

// Bounds of Config.MaxEntries. The other tables are fractions of the largest
// one, down to a quarter: with fewer than 256 places a single busy client would
// push others out. At the upper bound the tables take some 4 GiB, all of it at
// the start.
const (
	MinEntries = 1 << 10
	MaxEntries = 1 << 24
)

// MaxExclusions is how many entries Config.Exclude may have: the programs look at
// one after the other.
const MaxExclusions = 64

// The widest networks that Config.Addresses may have, in bits.
const (
	widestIPv4 = 8
	widestIPv6 = 32
)

// maxGlobs bounds Config.Interfaces: every glob is held against every interface.
const maxGlobs = 256

// Config is a complete configuration: what the file leaves out has its default.
type Config struct {
	// Interfaces are the managed interfaces in the order of the file; nil asks
	// for discovery, which IgnoreInterfaces limits.
	Interfaces []Interface `yaml:"interfaces"`
	// IgnoreInterfaces are names and globs (see Match) that discovery skips.
	IgnoreInterfaces []string `yaml:"ignore_interfaces"`
	// Policy is embedded: what Encode writes has its fields beside the others.
	Policy
	// FlowTable is embedded: what Encode writes has its field beside the others.
	FlowTable `yaml:"flow_table"`
	// FallbackRoute keeps replies being built when the default route is gone.
	FallbackRoute bool `yaml:"fallback_route"`
	// ManageRPFilter turns strict rp_filter into loose on managed interfaces.
	ManageRPFilter  bool            `yaml:"manage_rp_filter"`
	RepairUDPSource RepairUDPSource `yaml:"repair_udp_source"`
	Metrics         Metrics         `yaml:"metrics"`
	Log             Log             `yaml:"log"`
	// Flags are those of the command line that were applied.
	Flags Overrides
}

// Policy says which flows are served, and how.
type Policy struct {
	// Mode is in force on every interface that sets no mode of its own.
	Mode   Mode   `yaml:"mode"`
	Follow Follow `yaml:"follow"`
	Scope  Scope  `yaml:"scope"`
	// HostModel is in force on every interface that sets none of its own.
	HostModel HostModel `yaml:"host_model"`
	// Related: what this host originates towards a peer that it answers goes as the answers go.
	Related bool `yaml:"related"`
	// Addresses are networks that this host serves although no interface has them.
	Addresses []netip.Prefix `yaml:"addresses"`
	// LoopbackAddresses says what happens to replies from an address that only
	// lo or a dummy device has.
	LoopbackAddresses LoopbackAddresses `yaml:"loopback_addresses"`
	// Exclude names what is never recorded and never moved.
	Exclude []Exclusion `yaml:"exclude"`
	// Protocols are the IP protocol numbers that are served, each once.
	Protocols []uint8 `yaml:"protocols"`
}

// FlowTable is the size of the tables.
type FlowTable struct {
	// MaxEntries is that of the largest one, between the constants MinEntries and MaxEntries.
	MaxEntries uint32 `yaml:"max_entries"`
}

// Overrides are the settings of the command line, which win over the file.
type Overrides struct {
	Interfaces []string // manage these and no others; empty: as configured
	Observe    bool     // observe on every interface
	Enforce    bool     // enforce where Observe and an interface's own settings say nothing else
	Listen     *string  // Metrics.Listen; nil: as configured
	Mechanism  string   // by which programs are attached, alone; empty: by the best there is
}

// Interface is the configuration of one managed interface, or of all that a
// glob matches.
type Interface struct {
	// Name is a name, an alternative name or a glob; see Match.
	Name string `yaml:"name"`
	// Mode is empty where Config.Mode is in force.
	Mode    Mode    `yaml:"mode"`
	NextHop NextHop `yaml:"next_hop"`
	// HostModel is empty where Config.HostModel is in force.
	HostModel HostModel `yaml:"host_model"`
	// Gateways replace those of their family that the routing tables name.
	Gateways []netip.Addr `yaml:"gateways"`
}

// Exclusion matches a flow when all that it names matches.
type Exclusion struct {
	Peer     netip.Prefix `yaml:"peer"`      // not valid: any
	Self     netip.Prefix `yaml:"self"`      // not valid: any
	Protocol uint8        `yaml:"protocol"`  // 0: any
	SelfPort uint16       `yaml:"self_port"` // host byte order; 0: any
}

// Metrics says where Prometheus metrics are served.
type Metrics struct {
	// Listen is "host:port"; empty switches the server off.
	Listen string `yaml:"listen"`
	// WebConfigFile is the absolute path of a configuration file of Prometheus'
	// exporter-toolkit (TLS, basic authentication); empty for plain HTTP.
	WebConfigFile string `yaml:"web_config_file"`
	// Origin is that of WebConfigFile.
	Origin Origin `json:"-"`
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level `yaml:"level"`
	Format string     `yaml:"format"` // FormatText or FormatJSON
}

// Values of Log.Format.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Mode says whether replies are moved or only counted.
type Mode string

// Modes.
const (
	ModeEnforce Mode = "enforce"
	ModeObserve Mode = "observe"
)

// Follow says what happens to a flow that starts to arrive by another
// interface or from another MAC.
type Follow string

// Follow policies.
const (
	FollowPinned    Follow = "pinned"    // it stays where its first packet came in
	FollowLatest    Follow = "latest"    // it goes where its last packet came in
	FollowValidated Follow = "validated" // it moves on proof only
)

// Scope says whose flows are served.
type Scope string

// Scopes.
const (
	ScopeLocal Scope = "local" // flows to addresses of this host
	ScopeAll   Scope = "all"   // forwarded flows too
)

// LoopbackAddresses says how replies from a virtual address on lo or on a
// dummy device are treated.
type LoopbackAddresses string

// Ways to treat virtual addresses.
const (
	LoopbackKernel    LoopbackAddresses = "kernel"    // as routed, as LVS direct routing needs
	LoopbackSymmetric LoopbackAddresses = "symmetric" // as any own address, as anycast hosts want
)

// HostModel says by which interface leaves what this host originates: sent or forwarded by it with an own address as
// source, and no reply of a recorded flow (RFC 1122, 3.3.4.2).
type HostModel string

// Host models.
const (
	HostModelWeak   HostModel = "weak"   // as routed
	HostModelStrong HostModel = "strong" // by the interface that has the source address
)

// RepairUDPSource says whether wildcard UDP sockets are made to answer from the
// address that they were asked on.
type RepairUDPSource string

// Ways to repair source addresses.
const (
	RepairAuto  RepairUDPSource = "auto" // once a socket that needs it is there
	RepairTrue  RepairUDPSource = "true"
	RepairFalse RepairUDPSource = "false"
)

// NextHop says which MAC address a moved reply gets.
type NextHop string

// Next hops.
const (
	NextHopAuto    NextHop = "auto"     // inbound MAC on-link, else the gateway that the flow came through
	NextHopGateway NextHop = "gateway"  // the gateway of the interface that leads to the peer
	NextHopLastHop NextHop = "last-hop" // the source MAC of the flow's inbound frames
)

// Default returns the configuration of an empty file.
func Default() *Config {
	return &Config{
		IgnoreInterfaces: []string{"docker*", dockerBridges, "virbr*", "cni*", "flannel*", "cilium*", "kube*",
			// projectcalico/calico: felix/dataplane/linux/dataplanedefs, felix/config.
			"cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali",
			"tailscale*", "podman*", "lxdbr*", "incusbr*"},
		Policy: Policy{
			Mode:              ModeEnforce,
			Follow:            FollowValidated,
			Scope:             ScopeLocal,
			HostModel:         HostModelWeak,
			Related:           true,
			LoopbackAddresses: LoopbackKernel,
			Protocols:         []uint8{ProtocolTCP, ProtocolUDP, ProtocolICMP, ProtocolICMPv6, ProtocolSCTP},
		},
		FlowTable:       FlowTable{MaxEntries: 262144},
		FallbackRoute:   true,
		ManageRPFilter:  true,
		RepairUDPSource: RepairAuto,
		Metrics:         Metrics{Listen: "127.0.0.1:9945"},
		Log:             Log{Level: slog.LevelInfo, Format: FormatText},
	}
}
