// SPDX-License-Identifier: Apache-2.0

package show

import (
	"slices"
	"strconv"

	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

type flowField = output.Field[flows.Flow]

// How readily columns are left out; those above unneeded go before any word is shortened.
const (
	rankInterface = iota + 1
	rankKernel
	rankState
	unneeded
	rankAge
	rankBytes
	rankIdle
	rankNextHop
	rankAsymmetric
)

// Fields of flows.
var (
	protocolField   = output.NewField("PROTO", 0, func(f *flows.Flow) string { return f.Protocol })
	peerField       = output.NewField("PEER", 0, func(f *flows.Flow) string { return output.Endpoint(f.Peer, f.PeerPort) })
	selfField       = output.NewField("SELF", 0, func(f *flows.Flow) string { return output.Endpoint(f.Self, f.SelfPort) })
	interfaceField  = output.NewField("IN", rankInterface, func(f *flows.Flow) string { return output.OrEmpty(f.Interface) })
	kernelField     = output.NewField("KERNEL", rankKernel, kernelChoice)
	nextHopField    = output.NewField("NEXT HOP", rankNextHop, func(f *flows.Flow) string { return output.OrEmpty(f.NextHopMAC) })
	ageField        = output.NewField("AGE", rankAge, func(f *flows.Flow) string { return output.Duration(f.AgeSeconds) })
	idleField       = output.NewField("IDLE", rankIdle, func(f *flows.Flow) string { return output.Duration(f.IdleSeconds) })
	correctedField  = output.NewField("CORRECTED", 0, corrected)
	asymmetricField = output.NewField("ASYMMETRIC", rankAsymmetric, func(f *flows.Flow) string { return output.YesNo(f.Asymmetric) })
	bytesField      = output.NewField("BYTES", rankBytes, sentBytes)
)

// originatedFields are those of what this host originated.
var originatedFields = []flowField{
	protocolField, peerField, selfField, kernelField,
	output.NewField("SOURCE", rankInterface, func(f *flows.Flow) string { return output.OrEmpty(f.Interface) }),
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

// stateWords say a state. Where there is too little room the next ones do.
var stateWords = []map[string]string{
	{},
	{flows.StateConnectionless: ""},
	{flows.StateConnectionless: "", flows.StateEstablished: "estab"},
}

// closing is the state of a connection after FIN or RST.
const closing = "closing"

func stateField(words map[string]string) flowField {
	return output.NewField("STATE", rankState, func(f *flows.Flow) string {
		if f.Closing {
			return closing
		}
		if word, shorter := words[f.State]; shorter {
			return word
		}
		return f.State
	})
}

// flowFields are those of flows, with these words for their states.
func flowFields(words map[string]string) []flowField {
	return []flowField{
		protocolField, peerField, selfField, interfaceField, kernelField, nextHopField, stateField(words),
		ageField, idleField, correctedField, asymmetricField, bytesField,
	}
}

// fields are those of what is asked for, with these words for the states of flows. The one that is sorted by is always
// shown, that of the bytes only where they are known.
func (f *flowCommand) fields(words map[string]string) []flowField {
	fields := flowFields(words)
	if f.listing.Originated {
		fields = append(slices.Clone(originatedFields), bytesField)
	}
	if !f.listing.Bytes && f.listing.Order != flows.ByBytes {
		fields = fields[:len(fields)-1]
	}
	for i := range fields {
		if fields[i].Name == sortedName[f.listing.Order] {
			fields[i].Rank = 0
		}
	}
	return fields
}

var sortedName = map[flows.Order]string{flows.ByAge: ageField.Name, flows.ByBytes: bytesField.Name}

// table shows flows. States are shortened before a column that is needed is left out.
func (f *flowCommand) table(p *output.Page, list []flows.Flow) {
	var fields []flowField
	for _, words := range stateWords {
		fields = f.fields(words)
		needed := slices.DeleteFunc(slices.Clone(fields), func(f flowField) bool { return f.Rank > unneeded })
		if output.Fits(needed, list, p.Width) {
			break
		}
	}
	p.FittedTable(output.Columns(fields), output.FieldRows(fields, list), p.Width)
}
