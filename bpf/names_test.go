// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// Names of the C that these tests use, by what follows their prefix.

const (
	eventAdmittedConnectionless     = bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS
	eventAdmittedHalfOpen           = bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN
	eventIgnoredAnswer              = bpf.DatapathEventEVENT_IGNORED_ANSWER
	eventIgnoredNotOwn              = bpf.DatapathEventEVENT_IGNORED_NOT_OWN
	eventIgnoredNoSocket            = bpf.DatapathEventEVENT_IGNORED_NO_SOCKET
	eventIgnoredSegment             = bpf.DatapathEventEVENT_IGNORED_SEGMENT
	eventInsertFailedConnectionless = bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS
	eventInsertFailedHalfOpen       = bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN
	eventMoved                      = bpf.DatapathEventEVENT_MOVED
	eventReadmittedEstablished      = bpf.DatapathEventEVENT_READMITTED_ESTABLISHED
	eventUnparsedFragment           = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT
)

const (
	outcomeAsymmetric   = bpf.DatapathOutcomeOUTCOME_ASYMMETRIC
	outcomeCorrected    = bpf.DatapathOutcomeOUTCOME_CORRECTED
	outcomeLinkDown     = bpf.DatapathOutcomeOUTCOME_LINK_DOWN
	outcomeLost         = bpf.DatapathOutcomeOUTCOME_LOST
	outcomeLostLinkDown = bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN
	outcomeMTU          = bpf.DatapathOutcomeOUTCOME_MTU
	outcomeNoHeaderRoom = bpf.DatapathOutcomeOUTCOME_NO_HEADER_ROOM
	outcomeNoNextHop    = bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP
	outcomeObserve      = bpf.DatapathOutcomeOUTCOME_OBSERVE
	outcomeWeakHost     = bpf.DatapathOutcomeOUTCOME_WEAK_HOST
)

const (
	idleClosing        = uint32(bpf.DatapathIdleSecondsIDLE_CLOSING)
	idleConnectionless = uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)
	idleEstablished    = uint32(bpf.DatapathIdleSecondsIDLE_ESTABLISHED)
	idleHalfOpen       = uint32(bpf.DatapathIdleSecondsIDLE_HALF_OPEN)
	idleOutbound       = uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND)
)

const (
	leadAsker   = bpf.DatapathLeadKindLEAD_ASKER
	leadWatched = bpf.DatapathLeadKindLEAD_WATCHED
)

const (
	modeConfigured = uint8(bpf.DatapathModeMODE_CONFIGURED)
	modeObserve    = uint8(bpf.DatapathModeMODE_OBSERVE)
)

const (
	tableConnectionless = bpf.DatapathTableTABLE_CONNECTIONLESS
	tableEstablished    = bpf.DatapathTableTABLE_ESTABLISHED
	tableHalfOpen       = bpf.DatapathTableTABLE_HALF_OPEN
)

const (
	repairOn   = bpf.DatapathSourceRepairREPAIR_ON
	ownAddress = bpf.DatapathOwnFlagsOWN_ADDRESS
	noHeader   = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
)

type entries = rig.Flows
