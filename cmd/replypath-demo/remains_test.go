// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// patienceWithKernel is how long the kernel may take to clear away what nobody uses any more.
const patienceWithKernel = time.Minute

// remains finds what a demo leaves on the host.
type remains struct {
	t          *testing.T
	observer   *topology.Host
	interfaces []string
	bpfMounts  []string
}

// watchHost notes what the host is like before.
func watchHost(t *testing.T) *remains {
	t.Helper()
	n := topology.New(topology.Options{})
	t.Cleanup(func() { await.Must(t, n.Close()) })
	return &remains{
		t: t, observer: await.Must1[*topology.Host](t)(n.Host("observer")),
		interfaces: interfaceNames(t), bpfMounts: bpfMounts(t),
	}
}

func interfaceNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, i := range await.Must1[[]net.Interface](t)(net.Interfaces()) {
		names = append(names, i.Name)
	}
	return names
}

// bpfMounts lists where BPF file systems are mounted.
func bpfMounts(t *testing.T) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(string(await.Must1[[]byte](t)(os.ReadFile("/proc/self/mountinfo")))) {
		if strings.Contains(line, " - bpf ") {
			found = append(found, line)
		}
	}
	return found
}

// watchNamespaces ties each network namespace that a process holds to the observer, by a cable that goes with the
// namespace.
func (r *remains) watchNamespaces(pid int) {
	r.t.Helper()
	watched := []string{await.Must1[string](r.t)(os.Readlink("/proc/self/ns/net"))}
	for _, path := range await.Must1[[]string](r.t)(filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))) {
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, "net:[") || slices.Contains(watched, target) {
			continue
		}
		watched = append(watched, target)
		r.tie(path, fmt.Sprintf("watch%d", len(watched)))
	}
	const most = 4 // two servers, two routers
	await.Same(r.t, "network namespaces that the demo holds", most, len(watched)-1)
}

func (r *remains) tie(namespace, name string) {
	r.t.Helper()
	file := await.Must1[*os.File](r.t)(os.Open(namespace))
	defer file.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	await.Must(r.t, r.observer.Netlink().LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(file.Fd()),
	}))
}

// expectNothing fails the test unless the host is as it was. A BPF object needs a process, a network namespace or a pin.
func (r *remains) expectNothing(p *process) {
	r.t.Helper()
	r.await("processes", noChildren)
	r.await("network namespaces", r.noNamespaces)
	await.Same(r.t, "interfaces", r.interfaces, interfaceNames(r.t))
	await.Same(r.t, "bpf mounts", r.bpfMounts, bpfMounts(r.t))
	if _, err := os.Stat(pinDir); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("pins in %s: %v", pinDir, err)
	}
	if files := await.Must1[[]os.DirEntry](r.t)(os.ReadDir(p.tempDir)); len(files) > 0 {
		r.t.Errorf("temporary files: %v", files)
	}
}

// await asks again and again until nothing is left.
func (r *remains) await(what string, left func() (string, error)) {
	r.t.Helper()
	deadline := time.After(patienceWithKernel)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		rest := await.Must1[string](r.t)(left())
		if rest == "" {
			return
		}
		select {
		case <-deadline:
			r.t.Errorf("%s are left: %s", what, rest)
			return
		case <-ticker.C:
		}
	}
}

// noChildren reaps what the demo left to this process.
func noChildren() (string, error) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return "", nil
		case err != nil:
			return "", err
		case pid == 0:
			return "some still run", nil
		}
	}
}

func (r *remains) noNamespaces() (string, error) {
	links, err := r.observer.Netlink().LinkList()
	if err != nil {
		return "", err
	}
	var rest []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			rest = append(rest, l.Attrs().Name)
		}
	}
	return strings.Join(rest, " "), nil
}
