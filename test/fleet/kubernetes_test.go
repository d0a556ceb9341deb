// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// manifests is where those for Kubernetes are.
const manifests = "../../deploy/kubernetes/"

// podSpec is as much of a pod as is run here. What the types of Kubernetes say of it is tested where it is made.
type podSpec struct {
	InitContainers []container `yaml:"initContainers"`
	Containers     []container
}

type container struct {
	Args            []string
	SecurityContext struct {
		Capabilities struct{ Add []string }
	} `yaml:"securityContext"`
	Ready probe `yaml:"readinessProbe"`
	Live  probe `yaml:"livenessProbe"`
}

type probe struct {
	HTTPGet struct {
		Host, Port, Path string
	} `yaml:"httpGet"`
}

// readPod reads the pod of a manifest's DaemonSet.
func readPod(t *testing.T, name string) podSpec {
	t.Helper()
	text := string(await.Must1[[]byte](t)(os.ReadFile(manifests + name)))
	_, text, _ = strings.Cut(text, "kind: DaemonSet\n")
	var set struct {
		Spec struct{ Template struct{ Spec podSpec } }
	}
	await.Must(t, yaml.Unmarshal([]byte(text), &set))
	return set.Spec.Template.Spec
}

// node is one whose pods are run here.
type node struct {
	t *testing.T
	n *topology.TwoNIC
	p *product.Product
}

// command returns a container's command, with more flags.
func (n *node) command(c container, flags ...string) *topology.Cmd {
	command := n.p.Command(context.Background(), slices.Concat(c.Args, flags)...)
	host.Contain(command, c.SecurityContext.Capabilities.Add)
	return command
}

// wantProbe asks what the kubelet asks, and wants success or a failure that names something.
func (n *node) wantProbe(p probe, failure string) {
	n.t.Helper()
	await.Same(n.t, "what is asked", product.MetricsAddress, net.JoinHostPort(p.HTTPGet.Host, p.HTTPGet.Port))
	_, err := n.p.Get(p.HTTPGet.Path)
	if failed := err != nil; failed != (failure != "") || failed && !strings.Contains(err.Error(), failure) {
		n.t.Errorf("%s: %v, not %q", p.HTTPGet.Path, err, failure)
	}
}

// mostWarnings is how many a pod may have within a second or two: each thing that it cannot do is said once or twice.
const mostWarnings = 20

// run runs a container with a configuration, and ends it as the kubelet does.
func (n *node) run(c container, config, unready string) {
	n.t.Helper()
	command := n.command(c, "--config", product.WriteConfig(n.t, config))
	pod := product.StartProgram(n.t, command, unix.SIGTERM)
	pod.WaitLog(1, "msg=ready")
	n.wantProbe(c.Ready, unready)
	n.wantProbe(c.Live, "")
	n.ask(wire.WantByEth1)
	for _, c := range n.p.Status().HostChanges {
		if strings.HasPrefix(c.Object, "sysctl") {
			n.t.Errorf("told to be changed, by a pod that only reads sysctls: %+v", c)
		}
	}
	if said := pod.Log.Lines("level=WARN"); len(said) > mostWarnings {
		n.t.Errorf("%d warnings", len(said))
	}
	pod.Signal(unix.SIGTERM)
	pod.WantEnd(0)
}

func (n *node) ask(want func(testing.TB, *topology.Server, *traffic.Conversation)) {
	n.t.Helper()
	for _, f := range n.n.Families() {
		want(n.t, n.n.Server, traffic.NewConversation(n.t, traffic.TCP, n.n.ClientEth0, n.n.Server.Eth1.Address(f)))
	}
}

// TestKubernetes runs the containers of the manifests on a node, one after the other: replies are right beside each and
// in between, a missing interface makes a pod not ready, and no more. The one of detach.yaml leaves nothing.
func TestKubernetes(t *testing.T) {
	network := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	n := &node{t: t, n: network, p: product.On(t, network.Server.Host)}
	await.Must(t, network.Server.SetSysctl("net/ipv4/conf/eth0/rp_filter", "1")) // which a pod cannot make loose
	before := host.TakeSnapshot(t, network.Server.Host, "eth0", "eth1")
	n.ask(wire.WantLost)
	c := readPod(t, "replypath.yaml").Containers[0]
	n.run(c, "{}\n", "")
	n.ask(wire.WantByEth1)
	n.run(c, "interfaces: [{name: eth0}, {name: eth1}, {name: eth2}]\n", "503 Service Unavailable: not attached: eth2")
	if output, err := n.command(readPod(t, "detach.yaml").InitContainers[0]).CombinedOutput(); err != nil {
		t.Errorf("detach: %v\n%s", err, output)
	}
	n.ask(wire.WantLost)
	await.Same(t, "the node has changed", before, host.TakeSnapshot(t, network.Server.Host, "eth0", "eth1"))
}
