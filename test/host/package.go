// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// madePackages are those of MakePackage, which are made once. They last as long as the sandbox.
var madePackages = make(map[string]string)

// MakePackage makes the package of a kind and a version in its own directory, and returns its path. More variables of make
// may be set.
func MakePackage(t testing.TB, kind, version string, variables ...string) string {
	t.Helper()
	key := strings.Join(append([]string{kind, version}, variables...), " ")
	if made := madePackages[key]; made != "" {
		return made
	}
	dir := await.Must1[string](t)(os.MkdirTemp("", "package-"))
	args := []string{"--silent", "-C", "../..", kind, "VERSION=" + version, "PACKAGES=" + dir, "BINARY=" + filepath.Join(dir, "replypath")}
	c := exec.CommandContext(t.Context(), "make", append(args, variables...)...)
	c.Env = append(os.Environ(), "MAKEFLAGS=") // what the tests were called with is not for this one
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v\n%s", kind, err, output)
	}
	found := await.Must1[[]string](t)(filepath.Glob(filepath.Join(dir, "*"+version+"*."+kind)))
	if len(found) != 1 {
		t.Fatalf("packages of %s: %q", version, found)
	}
	madePackages[key] = found[0]
	return found[0]
}

// StartKeepalived runs keepalived on a host with a configuration.
func StartKeepalived(t testing.TB, host *topology.Host, config string) *product.Program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "keepalived.conf")
	await.Must(t, os.WriteFile(file, []byte(config), 0o600))
	c := host.Command(t.Context(), "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", file, "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
	return product.StartProgram(t, c, unix.SIGTERM)
}
