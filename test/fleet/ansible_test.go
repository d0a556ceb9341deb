// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// roles is the directory of the playbook and its role.
const roles = "../../deploy/ansible"

// version is that of the package that is installed.
const version = "1.0.0"

// TestAnsibleLint has the role checked by ansible-lint.
func TestAnsibleLint(t *testing.T) {
	c := exec.CommandContext(t.Context(), "/usr/bin/ansible-lint", "--offline", "--nocolor", "-q", "deploy/ansible")
	c.Dir = "../.." // it looks for more from there
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+t.TempDir())
	if output, err := c.CombinedOutput(); err != nil {
		t.Errorf("ansible-lint: %v\n%s", err, output)
	}
}

// makePackage makes the Debian package and returns its path.
func makePackage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.CommandContext(t.Context(), "make", "--silent", "-C", "../..", "deb", "VERSION="+version, "PACKAGES="+dir,
		"BINARY="+filepath.Join(dir, "replypath"))
	c.Env = append(os.Environ(), "MAKEFLAGS=") // what the tests were called with is not for this one
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, output)
	}
	found := harness.Must1[[]string](t)(filepath.Glob(filepath.Join(dir, "*"+version+"*.deb")))
	if len(found) != 1 {
		t.Fatalf("packages: %v", found)
	}
	return found[0]
}

// writeInventory names both servers: one gets the package, the other the binary.
func (f *fleet) writeInventory() {
	f.t.Helper()
	text := "all:\n  hosts:\n"
	for i, install := range []string{
		"replypath_package: " + makePackage(f.t),
		"replypath_binary: " + harness.Binary(),
	} {
		host := f.servers[i]
		text += fmt.Sprintf("    %s:\n      ansible_host: %s\n      %s\n      replypath_checks: [{host: %s, port: 22}]\n",
			host.Name, host.Eth0.Address(topology.IPv4), install, host.Eth1.Address(topology.IPv4))
	}
	harness.Must(f.t, os.WriteFile(f.path("hosts.yml"), []byte(text), 0o644))
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

// commands are those of the page: to observe, to enforce, and to take it away.
func commands(t *testing.T) (found []string) {
	t.Helper()
	page := harness.Must1[[]byte](t)(os.ReadFile("../../docs/guide/ansible.md"))
	for _, b := range harness.Blocks(string(page)) {
		if strings.HasPrefix(b.Text, "ansible-playbook ") {
			found = append(found, strings.TrimSpace(b.Text))
		}
	}
	if len(found) != 3 {
		t.Fatalf("commands of the page: %q", found)
	}
	return found
}

// play runs a command of the page on the controller with more variables, wants an outcome on each server, and returns
// what it wrote.
func (f *fleet) play(onA, onB, command string, variables ...string) string {
	f.t.Helper()
	args := strings.Fields(strings.ReplaceAll(command, "hosts.yml", f.path("hosts.yml")))[1:]
	for _, v := range variables {
		args = append(args, "-e", v)
	}
	began := time.Now()
	c := f.controller.Host.Command(harness.Within(f.t, 30*harness.AnswerTime), "/usr/bin/ansible-playbook", args...)
	c.Dir = roles
	c.Env = append(os.Environ(), "HOME="+f.dir, "LC_ALL=C.UTF-8", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_PIPELINING=True",
		"ANSIBLE_NOCOLOR=1", "ANSIBLE_SSH_CONTROL_PATH_DIR="+f.path("cp"), "ANSIBLE_PRIVATE_KEY_FILE="+f.path("key"),
		"ANSIBLE_REMOTE_USER=root", "ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3",
		"ANSIBLE_SSH_ARGS=-F none -o ControlMaster=auto -o ControlPersist=5s -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR")
	output, err := c.CombinedOutput()
	got := outcomes(string(output))
	f.t.Logf("%s %v: %v in %s", command, variables, got, time.Since(began).Round(100*time.Millisecond))
	if got["a"] != onA || got["b"] != onB || (err != nil) != (onA == failed || onB == failed) {
		f.t.Fatalf("not %q on a, %q on b: %v\n%s", onA, onB, err, output)
	}
	return string(output)
}

// wantReason wants the playbook to have said why it failed.
func wantReason(t *testing.T, output, reason string) {
	t.Helper()
	if !strings.Contains(output, reason) {
		t.Errorf("it does not say %q:\n%s", reason, output)
	}
}

// want wants a server to be in a mode, and its replies to be moved or lost.
func (f *fleet) want(host server, mode string, moved bool) {
	f.t.Helper()
	f.wantMode(host, mode)
	f.wantMoved(host, moved)
}

// TestAnsible rolls out to two servers: observe, a trial that the controller confirms and one that it cannot, and then
// can; a configuration with which nothing is attached, and back. What is there already is not changed again.
func TestAnsible(t *testing.T) {
	f := newFleet(t)
	f.writeInventory()
	a, b := f.servers[0], f.servers[1]
	page := commands(t)
	observe, enforce, remove := page[0], page[1], page[2]
	const together, soon = "replypath_serial=2", "replypath_check_seconds=1"
	f.want(a, "", false)
	f.want(b, "", false)

	f.play(changed, changed, observe, together)
	f.want(a, "observe", false)
	f.want(b, "observe", false)

	closed := `{"replypath_checks": [{"host": "{{ ansible_host }}", "port": "{{ {'a': 22, 'b': 9}[inventory_hostname] }}"}]}`
	output := f.play(changed, failed, enforce, closed, soon, "replypath_try_seconds=3")
	wantReason(t, output, "Reach what clients reach: One or more items failed; the trial is taken back: "+
		"replypath: not confirmed within 3s")
	f.want(a, "enforce", true)
	f.want(b, "observe", false)

	f.play(same, changed, enforce)
	f.want(b, "enforce", true)

	output = f.play(failed, untouched, enforce, soon, `{"replypath_config": {"interfaces": [{"name": "none*"}]}}`)
	wantReason(t, output, "nothing is attached")
	f.want(b, "enforce", true)

	f.play(changed, changed, remove, together)
	f.want(a, "", false)
	f.want(b, "", false)
}
