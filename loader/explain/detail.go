package explain

import "fmt"

// detail puts a verdict and its reason into words.
func (e *Explanation) detail(verdict, reason string) string {
	switch verdict {
	case Corrected:
		if e.Kernel.Interface != nil && e.Replypath.Interface != nil && *e.Kernel.Interface == *e.Replypath.Interface {
			return "the reply leaves by the kernel's interface, to the next hop that its flow came through"
		}
		return fmt.Sprintf("the reply leaves by %s, where its flow came in", orUnknown(e.Replypath.Interface))
	case AlreadyRight:
		return "the kernel sends the reply back the way that its flow came"
	case LocalOrigin:
		return "the host spoke first: what it starts goes as the kernel routes it"
	case Excluded:
		return "the configuration excludes it: it goes as the kernel routes it"
	case Fallback:
		return fallbackDetails[reason]
	}
	if text := noFlowDetails[reason]; text != "" {
		return text
	}
	return "no flow is recorded: it goes as the kernel routes it, until the peer sends something"
}

var fallbackDetails = map[string]string{
	reasonNoRoute:     "the kernel has no route to the peer: it builds no reply",
	reasonNotManaged:  "replypath is not attached to the interface that the kernel chose: the reply goes as routed",
	reasonLinkDown:    "the flow's interface is down or gone: the reply goes as routed",
	reasonObserve:     "mode observe: the reply goes as routed, and is counted",
	reasonBoundDevice: "the socket is bound to a device: it is not moved off it",
	reasonNoNextHop:   "no gateway of the flow's interface is usable: the reply goes as routed",
	reasonMTU: "the packet is larger than the mtu of the flow's interface: segments are cut to fit, of anything else the " +
		"sender is told the size, and what it sends meanwhile goes as routed",
}

var noFlowDetails = map[string]string{
	reasonUnmanaged: "replypath is not attached to the interface where it would come in: nothing is recorded, it goes as the " +
		"kernel routes it",
	reasonNotOwn:   "self is no address of this host and scope is local: nothing is recorded, it goes as the kernel routes it",
	reasonLoopback: "only lo or a dummy device has the self address and loopback_addresses is kernel: it goes as the kernel routes it",
	reasonSource:   "peer or self is this host, loopback, link-local, multicast or broadcast: nothing is recorded, it goes as the kernel routes it",
	reasonProtocol: "the protocol is not listed, or finds its own way as DHCP: nothing is recorded, it goes as the kernel routes it",
}

func orUnknown(text *string) string {
	if text == nil {
		return "an interface that is gone"
	}
	return *text
}
