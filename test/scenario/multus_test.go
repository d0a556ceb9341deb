// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	multusPage = "multi-nic-pods"
	podSection = "With replypath"
	sbrSection = "With the sbr plugin"
	cniPlugins = "/usr/lib/cni" // where Debian has them
)

// pod is one on a node with two interfaces. Its eth0 is a veth pair to the node, with the default route.
type pod struct {
	*topology.Server
	client *topology.Interface
	t      *testing.T
	node   *topology.Host
	// network is what the page has Multus give to the pod, and result what the plugins have done of it so far.
	network struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	result json.RawMessage
}

// newPod builds the node and a pod whose net1 is of the page's first plugin: a macvlan of the node's eth1, with an address
// of that network and no route but its own.
func newPod(t *testing.T, page *testhost.Recipe) *pod {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := &pod{t: t, node: n.Server.Host, client: n.ClientEth0}
	var definition struct{ Spec struct{ Config string } }
	await.Must(t, yaml.Unmarshal([]byte(page.Text(sbrSection, "yaml")), &definition))
	await.Must(t, json.Unmarshal([]byte(definition.Spec.Config), &p.network))
	host := await.Must1[*topology.Host](t)(n.Host("pod"))
	eth0, _, err := n.Connect(
		topology.NIC{Host: host, Name: "eth0", Addresses: prefixes("10.244.1.100/24", "2001:db8:244:1::100/64")},
		topology.NIC{Host: p.node, Name: "cali1", Addresses: prefixes("10.244.1.1/24", "2001:db8:244:1::1/64")})
	await.Must(t, err)
	testhost.Shell(t, p.node, "sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	testhost.IPBatch(t, host, "route add default via 10.244.1.1\nroute add default via 2001:db8:244:1::1")
	p.Server = &topology.Server{Host: host, Eth0: eth0}
	p.add("macvlan")
	p.Eth1 = await.Must1[*topology.Interface](t)(host.Interface("net1"))
	p.Eth1.PeerWith(n.Server.Eth1.Peer())
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	traffic.ServeNICs(t, p.Eth1)
	return p
}

// add has the network's next plugin do its part, as Multus does.
func (p *pod) add(plugin string) {
	p.t.Helper()
	conf := p.network.Plugins[0]
	p.network.Plugins = p.network.Plugins[1:]
	conf["cniVersion"], conf["name"], conf["prevResult"] = p.network.CNIVersion, p.network.Name, p.result
	c := p.node.Command(await.Within(p.t, await.AnswerTime), cniPlugins+"/"+plugin)
	c.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=pod", "CNI_IFNAME=net1", "CNI_PATH="+cniPlugins,
		fmt.Sprintf("CNI_NETNS=/proc/%d/fd/%d", os.Getpid(), p.Namespace()))
	c.Stdin = bytes.NewReader(await.Must1[[]byte](p.t)(json.Marshal(conf)))
	output, err := c.Output()
	if err != nil || conf["type"] != plugin {
		p.t.Fatalf("%v of %v: %v\n%s", plugin, conf, err, output)
	}
	p.result = output
}

// podManifest is as much of what the page adds to a pod as is run here. deploy/helm decodes all of it.
type podManifest struct {
	Spec struct {
		InitContainers []struct {
			Args            []string
			SecurityContext struct {
				Capabilities struct{ Add []string }
			} `yaml:"securityContext"`
		} `yaml:"initContainers"`
	}
}

// startContainer starts the page's container: its arguments and its capabilities, with the page's configuration.
func startContainer(t *testing.T, p *product.Product, page *testhost.Recipe) *product.Daemon {
	t.Helper()
	var manifest podManifest
	await.Must(t, yaml.Unmarshal([]byte(page.File(podSection, "pod.yaml")), &manifest))
	c := manifest.Spec.InitContainers[0]
	d := p.LaunchAs(func(command *topology.Cmd) { testhost.Contain(command, c.SecurityContext.Capabilities.Add) },
		append(c.Args[1:], "--config", page.Config(podSection))...)
	d.WaitReady()
	return d
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestMultus asks a pod at its second interface. Without replypath the answers leave by eth0 and are lost. With it, in the
// pod, each leaves by net1, also while its container starts again. Beside the rules of the sbr plugin the same holds.
func TestMultus(t *testing.T) {
	page := testhost.ReadRecipe(t, multusPage)
	pod := newPod(t, page)
	each := func(name string, want func(testing.TB, *topology.Server, *traffic.Conversation)) {
		traffic.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
			want(t, pod.Server, traffic.NewConversation(t, kind, pod.client, pod.Eth1.Address(f)))
		})
	}
	p := product.On(t, pod.Host)
	start := func() *product.Daemon { return startContainer(t, p, page) }
	each("without replypath", wire.WantLost)
	start().Stop(unix.SIGTERM) // as the kubelet ends it
	each("between two containers", wire.WantByEth1)
	start()
	each("in the pod", wire.WantByEth1)
	p.Expect(0, "detach", "--stop")
	each("after detach", wire.WantLost)
	pod.add("sbr")
	made := testhost.Shell(t, pod.Host, "for f in -4 -6; do ip $f rule show; ip $f route show table all; done")
	for line := range strings.Lines(page.Text(sbrSection, "text")) {
		if !strings.Contains(made, strings.TrimSpace(line)) {
			t.Errorf("sbr has not made %q, but\n%s", line, made)
		}
	}
	each("sbr alone", wire.WantByEth1)
	start()
	each("beside sbr", wire.WantByEth1)
}
