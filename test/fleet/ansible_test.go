// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
)

// roles is the directory of the playbook and its role.
const roles = "../../deploy/ansible"

// TestAnsibleLint has the role checked by ansible-lint.
func TestAnsibleLint(t *testing.T) {
	c := exec.CommandContext(t.Context(), "/usr/bin/ansible-lint", "--offline", "--nocolor", "-q", "deploy/ansible")
	c.Dir = "../.." // it looks for more from there
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+t.TempDir())
	if output, err := c.CombinedOutput(); err != nil {
		t.Errorf("ansible-lint: %v\n%s", err, output)
	}
}

// layOut gives the controller what its commands take from a checkout: the package in two versions, too.
func (f *fleet) layOut(version, next string) {
	f.t.Helper()
	await.Must(f.t, os.CopyFS(f.path("deploy/ansible"), os.DirFS(roles)))
	for _, dir := range []string{"bin", "build/packages", "deploy/ansible/inventory/host_vars"} {
		await.Must(f.t, os.MkdirAll(f.path(dir), 0o755))
	}
	await.Must(f.t, os.Symlink(product.Binary(), f.path("bin/replypath")))
	await.Must(f.t, os.Symlink(await.Must1[string](f.t)(filepath.Abs("../../packaging")), f.path("packaging")))
	named := func(version string) string { return f.path("build/packages/replypath_" + version + "-1_amd64.deb") }
	await.Must(f.t, os.Link(testhost.MakePackage(f.t, "deb", version), named(version)))
	// Its files are the same: what an upgrade does with others is shown elsewhere.
	f.typed(fmt.Sprintf(`dpkg-deb -R %[1]s next; sed -i "s/^Version: .*/Version: %[2]s-1/" next/DEBIAN/control
dpkg-deb -Zgzip -z1 -b next %[3]s; rm -r next`, named(version), next, named(next)), 0)
}

// typed runs a command on the controller, wants an exit code, and returns what it wrote.
func (f *fleet) typed(command string, code int) string {
	f.t.Helper()
	began := time.Now()
	c := f.controller.Host.Command(await.Within(f.t, 30*await.AnswerTime), "sh", "-euc", command)
	c.Dir = f.path("deploy/ansible")
	c.Env = append(os.Environ(), "HOME="+f.dir, "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1", "ANSIBLE_HOST_KEY_CHECKING=False",
		"ANSIBLE_SSH_CONTROL_PATH_DIR="+f.path("cp"), "ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3")
	output, err := c.CombinedOutput()
	f.t.Logf("%s: %s", command, time.Since(began).Round(100*time.Millisecond))
	if c.ProcessState == nil || c.ProcessState.ExitCode() != code {
		f.t.Fatalf("%v, not exit code %d:\n%s\n%s", err, code, command, output)
	}
	return string(output)
}

// What becomes of a host.
const (
	changed   = "changed"
	same      = "the same"
	failed    = "failed"
	untouched = "" // in no line of the recap
)

// recap is a line of the playbook's end: host, changed, unreachable, failed.
var recap = regexp.MustCompile(`(?m)^(\w+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+) `)

// outcomes reads what became of each host.
func outcomes(output string) map[string]string {
	found := make(map[string]string)
	for _, line := range recap.FindAllStringSubmatch(output, -1) {
		switch {
		case line[3] != "0" || line[4] != "0":
			found[line[1]] = failed
		case line[2] != "0":
			found[line[1]] = changed
		default:
			found[line[1]] = same
		}
	}
	return found
}

// play runs a playbook, wants an outcome on each server, and returns what it wrote.
func (f *fleet) play(command string, want ...string) string {
	f.t.Helper()
	code := 0
	if slices.Contains(want, failed) {
		code = 2
	}
	output := f.typed(command, code)
	got := outcomes(output)
	for i, host := range f.servers {
		if got[host.name] != want[i] {
			f.t.Fatalf("not %q on %s:\n%s", want[i], host.name, output)
		}
	}
	return output
}
