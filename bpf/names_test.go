// SPDX-License-Identifier: Apache-2.0

package bpf_test

import "replypath/bpf"

// Names of the C that these tests use, by what follows their prefix.

const (
	eventAdmittedConnectionless     = bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS
	eventAdmittedEstablished        = bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED
	eventAdmittedHalfOpen           = bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN
	eventAdmittedOutbound           = bpf.DatapathEventEVENT_ADMITTED_OUTBOUND
	eventEvictedConnectionless      = bpf.DatapathEventEVENT_EVICTED_CONNECTIONLESS
	eventEvictedEstablished         = bpf.DatapathEventEVENT_EVICTED_ESTABLISHED
	eventEvictedHalfOpen            = bpf.DatapathEventEVENT_EVICTED_HALF_OPEN
	eventFallbackDroppedV4          = bpf.DatapathEventEVENT_FALLBACK_DROPPED_V4
	eventFallbackDroppedV6          = bpf.DatapathEventEVENT_FALLBACK_DROPPED_V6
	eventIgnoredAnswer              = bpf.DatapathEventEVENT_IGNORED_ANSWER
	eventIgnoredExcluded            = bpf.DatapathEventEVENT_IGNORED_EXCLUDED
	eventIgnoredHandshake           = bpf.DatapathEventEVENT_IGNORED_HANDSHAKE
	eventIgnoredInterface           = bpf.DatapathEventEVENT_IGNORED_INTERFACE
	eventIgnoredMAC                 = bpf.DatapathEventEVENT_IGNORED_MAC
	eventIgnoredNotOwn              = bpf.DatapathEventEVENT_IGNORED_NOT_OWN
	eventIgnoredNoSocket            = bpf.DatapathEventEVENT_IGNORED_NO_SOCKET
	eventIgnoredProtocol            = bpf.DatapathEventEVENT_IGNORED_PROTOCOL
	eventIgnoredSegment             = bpf.DatapathEventEVENT_IGNORED_SEGMENT
	eventIgnoredSource              = bpf.DatapathEventEVENT_IGNORED_SOURCE
	eventInsertFailedConnectionless = bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS
	eventInsertFailedCounter        = bpf.DatapathEventEVENT_INSERT_FAILED_COUNTER
	eventInsertFailedHalfOpen       = bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN
	eventMoved                      = bpf.DatapathEventEVENT_MOVED
	eventReadmittedEstablished      = bpf.DatapathEventEVENT_READMITTED_ESTABLISHED
	eventRefusedContested           = bpf.DatapathEventEVENT_REFUSED_CONTESTED
	eventSourceRepairedV4           = bpf.DatapathEventEVENT_SOURCE_REPAIRED_V4
	eventSourceRepairedV6           = bpf.DatapathEventEVENT_SOURCE_REPAIRED_V6
	eventUnparsedFragment           = bpf.DatapathEventEVENT_UNPARSED_FRAGMENT
)

const (
	outcomeAsymmetric    = bpf.DatapathOutcomeOUTCOME_ASYMMETRIC
	outcomeBoundDevice   = bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE
	outcomeCorrected     = bpf.DatapathOutcomeOUTCOME_CORRECTED
	outcomeLinkDown      = bpf.DatapathOutcomeOUTCOME_LINK_DOWN
	outcomeLost          = bpf.DatapathOutcomeOUTCOME_LOST
	outcomeLostLinkDown  = bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN
	outcomeMTU           = bpf.DatapathOutcomeOUTCOME_MTU
	outcomeNoHeaderRoom  = bpf.DatapathOutcomeOUTCOME_NO_HEADER_ROOM
	outcomeNoNextHop     = bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP
	outcomeObserve       = bpf.DatapathOutcomeOUTCOME_OBSERVE
	outcomeOriginated    = bpf.DatapathOutcomeOUTCOME_ORIGINATED
	outcomeRewriteFailed = bpf.DatapathOutcomeOUTCOME_REWRITE_FAILED
	outcomeUnnamedTunnel = bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL
	outcomeWeakHost      = bpf.DatapathOutcomeOUTCOME_WEAK_HOST
)

const (
	idleClosing        = uint32(bpf.DatapathIdleSecondsIDLE_CLOSING)
	idleConnectionless = uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)
	idleEstablished    = uint32(bpf.DatapathIdleSecondsIDLE_ESTABLISHED)
	idleHalfOpen       = uint32(bpf.DatapathIdleSecondsIDLE_HALF_OPEN)
	idleOutbound       = uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND)
)

const (
	modeConfigured = uint8(bpf.DatapathModeMODE_CONFIGURED)
	modeEnforce    = uint8(bpf.DatapathModeMODE_ENFORCE)
	modeObserve    = uint8(bpf.DatapathModeMODE_OBSERVE)
)

const (
	tableConnectionless = bpf.DatapathTableTABLE_CONNECTIONLESS
	tableEnd            = bpf.DatapathTableTABLE_END
	tableEstablished    = bpf.DatapathTableTABLE_ESTABLISHED
	tableHalfOpen       = bpf.DatapathTableTABLE_HALF_OPEN
	tableRelated        = bpf.DatapathTableTABLE_RELATED
)

const (
	classICMP   = bpf.DatapathProtocolClassCLASS_ICMP
	classICMPv6 = bpf.DatapathProtocolClassCLASS_ICMPV6
	classOther  = bpf.DatapathProtocolClassCLASS_OTHER
	classSCTP   = bpf.DatapathProtocolClassCLASS_SCTP
	classTCP    = bpf.DatapathProtocolClassCLASS_TCP
	classUDP    = bpf.DatapathProtocolClassCLASS_UDP
)

const followLatest = bpf.DatapathFollowFOLLOW_LATEST

const (
	repairOff   = bpf.DatapathSourceRepairREPAIR_OFF
	repairOn    = bpf.DatapathSourceRepairREPAIR_ON
	repairWatch = bpf.DatapathSourceRepairREPAIR_WATCH
)

const (
	ownAddress = bpf.DatapathOwnFlagsOWN_ADDRESS
	noHeader   = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
)

type entries = map[bpf.DatapathTuple]bpf.DatapathFlow
