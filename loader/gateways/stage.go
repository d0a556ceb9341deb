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
)

// event is what may change the stage of a gateway.
type event int

const (
	onCarrier event = iota // the carrier is back: another router may be there
	onOver                 // its time is over, or the mode has changed: the next event decides
	onMAC                  // the kernel has a MAC: no packet waits any more
	onAsk                  // the kernel has no MAC, and is made to ask: a router that is there answers at once
	onBridge               // no answer in time, or the entry outlived the carrier: replies go on with the last MAC
	onHold                 // the kernel has asked without an answer: replies go on; TCP of the host is refused
	onLetGo                // it answers, or may not be held any more: the kernel's entry counts; a running request goes on
)

// transitions are what an event leads to, from the stages that it changes (docs/design/gateways.md).
var transitions = map[event]map[stage]stage{
	onCarrier: {untouched: fresh},
	onOver:    {fresh: untouched, resolving: untouched, retried: held},
	onMAC:     {resolving: untouched, retried: held},
	onAsk:     {untouched: resolving, fresh: resolving, held: retried},
	onBridge:  {untouched: bridged, fresh: bridged, resolving: bridged},
	onHold:    {untouched: held, fresh: held, resolving: held, bridged: held},
	onLetGo:   {bridged: untouched, held: untouched, retried: resolving},
}
