// SPDX-License-Identifier: Apache-2.0

package hostsettings

// ForwardsNothing tells of each family whether nothing that comes in by an interface is passed on to other hosts. IPv4 has
// a setting for each interface (IN_DEV_FORWARD() in net/ipv4/route.c). IPv6 heeds that of "all", and force_forwarding from
// 6.17 on (ip6_forward() in net/ipv6/ip6_output.c); who sets the interface's own means it as well.
func ForwardsNothing(name string) (ipv4, ipv6 bool) {
	if !isInterfaceName(name) {
		return false, false
	}
	forced, _ := ReadNumber(Key("ipv6", name, "force_forwarding"))
	return isOff(Key("ipv4", name, "forwarding")),
		isOff(Key("ipv6", "all", "forwarding")) && isOff(Key("ipv6", name, "forwarding")) && forced == 0
}

func isOff(key string) bool {
	value, err := ReadNumber(key)
	return err == nil && value == 0
}
