// SPDX-License-Identifier: Apache-2.0

package explain

// Verdicts.
const (
	Corrected    = "corrected"     // leaves by the flow's interface and next hop, which the kernel did not choose
	AlreadyRight = "already-right" // the kernel chose them itself
	NoFlow       = "no-flow"       // goes as routed: nothing came in by this tuple
	StrongHost   = "strong-host"   // of no flow: leaves by the interface that has its source address (host_model: strong)
	Related      = "related"       // of no flow: goes as answers to its peer go, by the interface that has its source address (related: true)
	LocalOrigin  = "local-origin"  // goes as routed: the host spoke first
	Excluded     = "excluded"      // goes as routed: the configuration wants it so
	Fallback     = "fallback"      // goes as routed although its flow came another way; the reason tells why
)

// Reasons beside those of the metrics.
const (
	reasonNoRoute    = "no_route"    // the kernel builds no packet
	reasonNotManaged = "not_managed" // the kernel's choice is an interface without our programs
	reasonUnmanaged  = "unmanaged"   // the question would come in by such an interface
)

// Those of the metrics (loader/counters/names.go) that are put into words here.
const (
	reasonLinkDown    = "link_down"
	reasonObserve     = "observe"
	reasonBoundDevice = "bound_device"
	reasonNoNextHop   = "no_next_hop"
	reasonMTU         = "mtu"
)

// fallbackDetails put the reasons of Fallback into words.
var fallbackDetails = map[string]string{
	reasonNoRoute:     "the kernel has no route to the peer: it builds no reply",
	reasonNotManaged:  "replypath is not attached to the interface that the kernel chose: the reply goes as routed",
	reasonLinkDown:    "the flow's interface is down or gone: the reply goes as routed",
	reasonObserve:     "mode observe: the reply goes as routed, and is counted",
	reasonBoundDevice: "the socket is bound to a device: it is not moved off it",
	reasonNoNextHop:   "no gateway of the flow's interface is usable: the reply goes as routed",
	reasonMTU: "the packet is larger than the mtu of the flow's interface: its sender learns the size, and what it sends " +
		"meanwhile goes as routed",
}

// noFlowDetails put those of NoFlow into words.
var noFlowDetails = map[string]string{
	reasonUnmanaged: "replypath is not attached to the interface where it would arrive: nothing is recorded, it goes as the " +
		"kernel routes it",
	"not_own": "self is no address of this host and scope is local: nothing is recorded, it goes as the kernel routes it",
	"tunnel": "the interface where it would arrive is a tunnel that the configuration does not name, and does not have the self address: " +
		"nothing is recorded, it goes as the kernel routes it",
	"loopback": "only lo or a dummy device has the self address and loopback_addresses is kernel: it goes as the kernel routes it",
	"source":   "peer or self is this host, loopback, link-local, multicast or broadcast: nothing is recorded, it goes as the kernel routes it",
	"protocol": "the protocol is not listed, or DHCP finds its route itself: nothing is recorded, it goes as the kernel routes it",
}
