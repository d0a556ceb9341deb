// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"testing"

	"replypath/test/topology"
	"replypath/test/wire"
)

// podmanConf leaves control groups and limits as the test's are: to set them needs rights that containers, where tests
// may run, do not have.
const podmanConf = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = %q
`

const podmanStorage = `[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
`

func startPodman(t *testing.T, n *topology.TwoNIC, backend string) *engine {
	t.Helper()
	e := startEngine(t, n, []string{"podman"}, "sh -c 'echo furnished; exec sleep infinity'", "furnished")
	e.write("/etc/containers/containers.conf", fmt.Sprintf(podmanConf, backend))
	e.write("/etc/containers/storage.conf", podmanStorage)
	e.load()
	return e
}

// TestPodman publishes a port of a podman container, whose network netavark makes or CNI plugins.
func TestPodman(t *testing.T) {
	for backend, bridge := range map[string]string{"netavark": "podman", "cni": "cni-podman"} {
		t.Run(backend, func(t *testing.T) {
			n, _ := newServer(t)
			e := startPodman(t, n, backend)
			e.do("network create --ipv6 --subnet 10.17.0.0/24 --subnet 2001:db8:17::/64 both")
			e.publish(80, "--network both")
			e.wantServed(wire.WantLost, bridge, "veth")
		})
	}
}
