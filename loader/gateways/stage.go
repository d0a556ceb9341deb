// SPDX-License-Identifier: Apache-2.0

package gateways

// stage is what is done about a gateway that does not answer, or may not. What the kernel says of it is another thing
// (nexthop.Gateway.State).
type stage int

const (
	untouched stage = iota // nothing: the kernel's own entry counts
	fresh                  // its interface has got its carrier back, it is to be asked
	resolving              // it was asked for, and has bridgeAfter, or unknownAfter, to answer
	bridged                // it has not answered yet, and its neighbour entry is kept usable
	held                   // it is silent, and its neighbour entry kept usable: see hold.go
	retried                // so it is; it has never answered, and has bridgeAfter to do so without a MAC

	stages // how many there are
)

// stageNames are those in docs/design/gateways.md.
var stageNames = [stages]string{"untouched", "fresh", "resolving", "bridged", "held", "retried"}

// event is what may change the stage of a gateway.
type event int

const (
	onCarrier event = iota
	onOver
	onMAC
	onAsk
	onBridge
	onHold
	onLetGo

	events // how many there are
)

// transition is what an event leads to, from each stage. Its words are those in docs/design/gateways.md.
type transition struct {
	what, why string
	to        map[stage]stage
}

// transitions decide about every event in every stage.
var transitions = [events]transition{
	onCarrier: {
		"the carrier is back",
		"another router may be there",
		map[stage]stage{untouched: fresh, fresh: fresh, resolving: resolving, bridged: bridged, held: held, retried: retried},
	},
	onOver: {
		"its time is over, or the mode has changed", "the next event decides",
		map[stage]stage{untouched: untouched, fresh: untouched, resolving: untouched, bridged: bridged, held: held, retried: held},
	},
	onMAC: {
		"the kernel has a MAC", "no packet waits any more",
		map[stage]stage{untouched: untouched, fresh: fresh, resolving: untouched, bridged: bridged, held: held, retried: held},
	},
	onAsk: {
		"the kernel has no MAC, is made to ask", "a router that is there answers at once",
		map[stage]stage{
			untouched: resolving, fresh: resolving, resolving: resolving, bridged: bridged, held: retried, retried: retried,
		},
	},
	onBridge: {
		"no answer in time, or the entry outlived the carrier", "replies go on with the last MAC",
		map[stage]stage{untouched: bridged, fresh: bridged, resolving: bridged, bridged: bridged, held: held, retried: retried},
	},
	onHold: {
		"the kernel has asked without an answer", "replies go on; TCP of the host is refused",
		map[stage]stage{untouched: held, fresh: held, resolving: held, bridged: held, held: held, retried: retried},
	},
	onLetGo: {
		"it answers, or may not be held any more", "the kernel's entry counts; a running request goes on",
		map[stage]stage{
			untouched: untouched, fresh: fresh, resolving: resolving, bridged: untouched, held: untouched, retried: resolving,
		},
	},
}
