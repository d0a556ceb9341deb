// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"fmt"
	"os"
	"path/filepath"

	"replypath/test/await"
)

// tokens has the password of whom the programs of a cluster, and the reader, log in as.
const tokens = "password,admin,admin,system:masters\n"

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: password}}]
contexts: [{name: here, context: {cluster: here, user: admin}}]
current-context: here
`

// kubeletConf leaves control groups alone: to set limits needs rights that containers, where tests may run, do not
// have.
const kubeletConf = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
`

// containerdConf has the images where an overlay may lie above them: on no other overlay.
const containerdConf = `version = 2
root = "/run/containerd/root"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  disable_cgroup = true
  restrict_oom_score_adj = true
`

// podNetwork is that of pods which have one of their own: there are none.
const podNetwork = `{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "none"}]}`

// tunables are what the kubelet sets, which concerns the whole machine: it sets files in their place.
const tunables = `
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
	kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	file=/run/tunables/$name
	mkdir -p ${file%/*}
	cat /proc/sys/$name >$file
	mount --bind $file /proc/sys/$name
done`

// images has no registry asked: what the page and the manifests call the image is there.
const images = `
cd /run/test/cluster
export CONTAINERD_NAMESPACE=k8s.io
ctr images import pause.tar
ctr images import replypath.tar
for image in $(ctr images list --quiet | grep ^replypath:); do
	ctr images tag "$image" "docker.io/library/$image" "registry.example.com/$image"
done`

// joinCluster starts a cluster on the host and returns when it may be used.
func (h *host) joinCluster(dir string) {
	h.t.Helper()
	const programs, login = "/run/test/cluster", "--kubeconfig=/root/.kube/config"
	await.Must(h.t, os.CopyFS(h.m.Shared("cluster"), os.DirFS(dir)))
	await.Must(h.t, os.CopyFS(h.m.Shared("checkout/deploy"), os.DirFS(filepath.Join(checkout, "deploy"))))
	for path, text := range map[string]string{
		"/etc/cni/net.d/none.conflist": podNetwork,
		"/run/cluster/containerd.toml": containerdConf,
		"/run/cluster/kubelet.yaml":    kubeletConf,
		"/run/cluster/tokens":          tokens,
		"/root/.kube/config":           kubeconfig,
	} {
		h.m.Write(path, text)
	}
	h.m.Run("sh", "-ec", tunables)
	// By it the cluster signs who somebody is.
	h.m.Run("ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", "/run/cluster/key")
	h.m.Run("ln", "-s", programs, "/usr/local/bin") // where the reader finds helm and kubectl

	h.start(programs+"/server", "--data-dir=/run/cluster/etcd", "--unsafe-no-fsync", "--log-level=warn")
	h.start(programs+"/kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--cert-dir=/run/cluster/certificates",
		"--authorization-mode=Node,RBAC", "--token-auth-file=/run/cluster/tokens", "--advertise-address=10.3.0.100",
		"--kubelet-preferred-address-types=InternalIP", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=/run/cluster/key", "--service-account-key-file=/run/cluster/key")
	h.start("/usr/bin/containerd", "--config=/run/cluster/containerd.toml")
	h.wait("ctr version")
	h.m.Run("sh", "-ec", images)
	h.wait("kubectl get --raw /readyz")
	h.start(programs+"/kube-controller-manager", login, "--leader-elect=false",
		"--service-account-private-key-file=/run/cluster/key")
	h.start(programs+"/kube-scheduler", login, "--leader-elect=false")
	h.start(programs+"/kubelet", login, "--config=/run/cluster/kubelet.yaml", "--root-dir=/run/kubelet",
		"--hostname-override=node", "--node-ip=10.3.0.100")
	h.wait("kubectl wait --for=condition=Ready node/node")
}

// start has systemd run a program of the cluster.
func (h *host) start(program string, flags ...string) {
	h.t.Helper()
	h.m.Run(append([]string{"systemd-run", "--quiet", "--unit", filepath.Base(program), program}, flags...)...)
}

// wait waits until a command ends with success.
func (h *host) wait(command string) {
	h.t.Helper()
	await.Eventually(h.t, command, func() error {
		if output, err := h.command(await.Within(h.t, limit), command).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		return nil
	})
}
