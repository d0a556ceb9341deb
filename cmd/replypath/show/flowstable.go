// SPDX-License-Identifier: Apache-2.0

package show

import (
	"slices"
	"strconv"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

type flowField = output.Field[flows.Flow]

// How readily columns are left out. The interfaces and the numbers of corrected packets always stay.
const (
	rankProtocol = iota + 1
	rankState
	rankAge
	rankBytes
	rankIdle
	rankNextHop
	rankAsymmetric
)

// Fields of flows.
var (
	protocolField   = output.NewField("PROTO", rankProtocol, func(f *flows.Flow) string { return f.Protocol })
	peerField       = output.NewField("PEER", 0, func(f *flows.Flow) string { return output.Endpoint(f.Peer, f.PeerPort) })
	selfField       = output.NewField("SELF", 0, func(f *flows.Flow) string { return output.Endpoint(f.Self, f.SelfPort) })
	interfaceField  = output.NewField("IN", 0, func(f *flows.Flow) string { return output.OrEmpty(f.Interface) })
	kernelField     = output.NewField("KERNEL", 0, kernelChoice)
	nextHopField    = output.NewField("NEXT HOP", rankNextHop, func(f *flows.Flow) string { return f.NextHop() })
	ageField        = output.NewField("AGE", rankAge, func(f *flows.Flow) string { return output.Duration(f.AgeSeconds) })
	idleField       = output.NewField("IDLE", rankIdle, func(f *flows.Flow) string { return output.Duration(f.IdleSeconds) })
	correctedField  = output.NewField("CORRECTED", 0, corrected)
	asymmetricField = output.NewField("ASYMMETRIC", rankAsymmetric, func(f *flows.Flow) string { return output.YesNo(f.Asymmetric) })
	stateField      = output.NewField("STATE", rankState, stateOf)
	bytesField      = output.NewField("BYTES", rankBytes, sentBytes)
)

// originatedFields are those of what this host originated.
var originatedFields = []flowField{
	protocolField, peerField, selfField, kernelField,
	output.NewField("SOURCE", 0, func(f *flows.Flow) string { return output.OrEmpty(f.Interface) }),
	output.NewField("OUTCOME", rankState, func(f *flows.Flow) string { return f.Outcome }),
	ageField, idleField,
	output.NewField("MOVED", 0, corrected),
}

func corrected(f *flows.Flow) string { return strconv.FormatUint(f.CorrectedPackets, 10) }

// unknown is shown for what an asymmetric flow has and nobody can tell.
const unknown = "?"

// kernelChoice is the interface that the kernel chose, of asymmetric flows.
func kernelChoice(f *flows.Flow) string {
	if f.Asymmetric && f.KernelInterface == nil && f.State != flows.StateOriginated {
		return unknown
	}
	return output.OrEmpty(f.KernelInterface)
}

func sentBytes(f *flows.Flow) string {
	if f.Bytes == nil {
		return ""
	}
	return strconv.FormatUint(*f.Bytes, 10)
}

// closing is the state of a connection after FIN or RST.
const closing = "closing"

func stateOf(f *flows.Flow) string {
	if f.Closing {
		return closing
	}
	return f.State
}

// flowFields are those of flows.
var flowFields = []flowField{
	protocolField, peerField, selfField, interfaceField, kernelField, nextHopField, stateField,
	ageField, idleField, correctedField, asymmetricField,
}

// fields are those of what is asked for. The one that is sorted by is always shown, that of the bytes only where they are
// known.
func (f *flowCommand) fields() []flowField {
	fields := slices.Clone(flowFields)
	if f.listing.Originated {
		fields = slices.Clone(originatedFields)
	}
	if f.listing.Bytes || f.listing.Order == flows.ByBytes {
		fields = append(fields, bytesField)
	}
	for i := range fields {
		if fields[i].Name == sortedName[f.listing.Order] {
			fields[i].Rank = 0
		}
	}
	return fields
}

var sortedName = map[flows.Order]string{flows.ByAge: ageField.Name, flows.ByBytes: bytesField.Name}
