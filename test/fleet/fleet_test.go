// SPDX-License-Identifier: Apache-2.0

// Package fleet rolls replypath out to several hosts, by what operators have for that.
package fleet

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestMain(m *testing.M) { product.Main(m) }

// walk is a page whose commands the controller runs, in the page's order.
type walk struct {
	*fleet
	name   string
	blocks []testhost.Block
	ran    map[string]bool // commands and expressions
	prom   *testhost.Prometheus
}

func (f *fleet) open(name string) *walk {
	f.t.Helper()
	page := await.Must1[[]byte](f.t)(os.ReadFile("../../docs/" + name))
	return &walk{fleet: f, name: name, blocks: testhost.Blocks(string(page)), ran: make(map[string]bool)}
}

// of returns the blocks of a section in a language.
func (w *walk) of(section, language string) (found []testhost.Block) {
	for _, b := range w.blocks {
		if b.Section == section && b.Language == language {
			found = append(found, b)
		}
	}
	return found
}

// commands returns those of a section, which has so many: whoever calls runs them.
func (w *walk) commands(section string, count int) (found []string) {
	w.t.Helper()
	for _, b := range w.of(section, "sh") {
		found = append(found, b.Commands()...)
	}
	if len(found) != count {
		w.t.Fatalf("%s has %d commands in %q, not %d: %q", w.name, len(found), section, count, found)
	}
	return found
}

// typed notes that a command was run.
func (w *walk) typed(command string, code int) string {
	w.t.Helper()
	w.ran[command] = true
	return w.fleet.typed(command, code)
}

// play notes that a command was run.
func (w *walk) play(command string, want ...string) string {
	w.t.Helper()
	w.ran[command] = true
	return w.fleet.play(command, want...)
}

// expressions returns those of a section, each of which has series in the end.
func (w *walk) expressions(section string, count int) (found []string) {
	w.t.Helper()
	for _, b := range w.of(section, "promql") {
		for line := range strings.Lines(b.Text) {
			expression := strings.TrimSpace(line)
			await.Eventually(w.t, section, func() error { return w.prom.LackedSeries(expression, "") })
			w.ran[expression] = true
			found = append(found, expression)
		}
	}
	if len(found) != count {
		w.t.Fatalf("%s has %d expressions in %q, not %d", w.name, len(found), section, count)
	}
	return found
}

// wantInstances wants an expression to have series of these servers and no other.
func (w *walk) wantInstances(expression string, hosts ...server) {
	w.t.Helper()
	want := make(map[string]bool)
	for _, host := range hosts {
		want[scraped(host).String()] = true
	}
	await.Eventually(w.t, expression, func() error {
		all, err := w.prom.Series(expression)
		got := make(map[string]bool)
		for _, one := range all {
			got[one.Metric["instance"]] = true
		}
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("of %v, not of %v", got, want)
		}
		return err
	})
}

// wantAllRun wants each command and each expression of the page to have been run.
func (w *walk) wantAllRun() {
	w.t.Helper()
	for _, b := range w.blocks {
		if !b.Typed() && b.Language != "promql" {
			continue
		}
		for _, line := range b.Commands() {
			if !w.ran[line] {
				w.t.Errorf("%s:%d: nobody runs %q", w.name, b.Line, line)
			}
		}
	}
}

// scraped is where a server has its metrics.
func scraped(host server) netip.AddrPort {
	return netip.AddrPortFrom(host.Eth0.Address(topology.IPv4), 9945)
}

// write writes a file of the inventory.
func (f *fleet) write(name, text string) {
	f.t.Helper()
	await.Must(f.t, os.WriteFile(filepath.Join(f.path("deploy/ansible/inventory"), name), []byte(text), 0o644))
}

// writeInventory writes what the page shows, for three hosts. One of them has the binary.
func (w *walk) writeInventory() {
	w.t.Helper()
	shown := w.of("1. Name the hosts", "yaml")
	w.write("hosts.yml", strings.Replace(shown[0].Text, "db[001:200]", "db[001:003]", 1))
	w.write("host_vars/db001.yml", shown[1].Text)
	for _, host := range w.servers[1:] {
		address := host.Eth1.Address(topology.IPv4)
		w.write("host_vars/"+host.name+".yml", fmt.Sprintf("replypath_checks: [{host: %s, port: %d}]\n", address, served))
	}
	w.append("host_vars/db003.yml", "replypath_package: ''\nreplypath_binary: ../../bin/replypath\n")
}

func (f *fleet) append(name, text string) {
	f.t.Helper()
	old := await.Must1[[]byte](f.t)(os.ReadFile(filepath.Join(f.path("deploy/ansible/inventory"), name)))
	f.write(name, string(old)+text)
}

// want wants servers to be in a mode, and what each does with its replies.
func (f *fleet) want(mode string, byEth1 ...bool) {
	f.t.Helper()
	for i, host := range f.servers {
		f.wantMode(host, mode)
		f.wantMoved(host, byEth1[i])
	}
}

// TestFleet walks a fleet as FLEET.md says, from the first look to enforcing, and back: one host whose replies leave by
// the wrong interface, one that lives by a rule, and one that somebody's firewall blocks. What ansible.md says is done
// on the way: a trial that the controller cannot confirm, and a configuration with which nothing is attached.
func TestFleet(t *testing.T) {
	f := newFleet(t)
	w := f.open("FLEET.md")
	f.layOut("0.2.0", "0.2.1")
	w.writeInventory()
	w.look()
	w.observe()
	w.plan()
	w.canary()
	w.widen()
	w.watch()
	w.removeRule()
	w.update()
	w.back()
	w.wantAllRun()
}

// What db002 lives by, and has.
const (
	rule   = "from 10.4.0.100 lookup 101"
	strict = "net.ipv4.conf.eth1.rp_filter"
)

// look is step 2, before which the hosts become what they are.
func (w *walk) look() {
	w.t.Helper()
	asymmetric, ruled, blocked := w.servers[0], w.servers[1], w.servers[2]
	for _, host := range w.servers {
		w.wantMode(host, "")
		w.wantMoved(host, false)
	}
	ruled.m.Run("sh", "-ec", "sysctl -q "+strict+"=1; ip route add default via 10.4.0.1 dev eth1 table 101; ip rule add "+rule)
	blocked.m.Run("nft", "add table inet strict; add chain inet strict pre {type filter hook prerouting priority raw;}; "+
		"add rule inet strict pre fib saddr . iif oif missing drop")
	w.wantMoved(ruled, true)
	commands := w.commands("2. doctor on all", 3)
	w.typed(commands[0], 2)
	await.Says(w.t, "the playbook", w.typed(commands[1], 0), "1 reverse-path-rules")
	said := w.typed(commands[2], 0)
	await.Says(w.t, "the playbook", said, "doctor/db003")
	if strings.Contains(said, asymmetric.name) {
		w.t.Errorf("an error on %s: %s", asymmetric.name, said)
	}
}

// observe are steps 3 and 4.
func (w *walk) observe() {
	w.t.Helper()
	w.play(w.commands("3. Observe on all", 1)[0], changed, changed, changed)
	for _, host := range w.servers {
		w.wantMode(host, "observe")
	}
	var targets []netip.AddrPort
	for _, host := range w.servers {
		targets = append(targets, scraped(host))
	}
	w.prom = testhost.StartPrometheus(w.t, w.controller.Host, time.Second, targets...)
	w.wantMoved(w.servers[0], false)
	w.wantMoved(w.servers[1], true)
	asked := w.expressions("4. Look for a week", 5)
	w.prom.WantValue(asked[0], 3)
	w.wantInstances(asked[2], w.servers[0])
	w.wantInstances(asked[3], w.servers[1:]...)
	w.wantInstances(asked[4], w.servers[1])
}

// plan is step 5: once, and again when what blocks is mended.
func (w *walk) plan() {
	w.t.Helper()
	commands := w.commands("5. plan on all", 4)
	w.typed(commands[0], 2)
	w.typed(commands[1], 0)
	await.Says(w.t, "the playbook", w.typed(commands[2], 0), "1 blocked\n      2 ready")
	await.Says(w.t, "the playbook", w.typed(commands[3], 0), "plan/db003\treverse-path-rules")
	w.servers[2].m.Run("nft", "delete table inet strict")
	w.wantMoved(w.servers[2], false)
	w.typed(commands[0], 0)
	w.typed(commands[1], 0)
	await.Says(w.t, "the playbook", w.typed(commands[2], 0), "3 ready")
}

// canary is step 6, and before it a trial that the controller cannot confirm.
func (w *walk) canary() {
	w.t.Helper()
	canary := w.servers[0]
	const closed = ` -e '{"replypath_checks": [{"host": "{{ inventory_hostname }}", "port": 9}]}' -e replypath_check_seconds=1 -e replypath_try_seconds=3`
	said := w.fleet.play(ansibleCommands(w.t)[1]+closed, failed, untouched, untouched)
	await.Says(w.t, "the playbook", said, "Reach what clients reach: One or more items failed; the trial is taken back: replypath: not confirmed within 3s")
	w.wantMode(canary, "observe")
	w.wantMoved(canary, false)

	commands := w.commands("6. A canary", 3)
	w.typed(commands[0], 0)
	await.Says(w.t, "the playbook", w.play(commands[1], changed, untouched, untouched), "TASK [replypath : Confirm]")
	await.Says(w.t, "the playbook", w.typed(commands[2], 0), "ok: ", "; enforcing on eth0, eth1; ")
	w.wantMoved(canary, true)
	w.wantMode(w.servers[1], "observe")
}

// widen is step 7.
func (w *walk) widen() {
	w.t.Helper()
	commands := w.commands("7. Widen", 2)
	w.typed(commands[0], 0)
	w.play(commands[1], same, changed, changed)
	for _, host := range w.servers {
		w.wantMode(host, "enforce")
		w.wantMoved(host, true)
	}
}

// watch is step 8, while replies of the first host are lost.
func (w *walk) watch() {
	w.t.Helper()
	host := w.servers[0]
	thief := testhost.TakeUDP(w.t, host.Eth1)
	c := traffic.NewConversation(w.t, traffic.UDP, w.controller, host.Eth1.Address(topology.IPv4))
	await.Eventually(w.t, "lost replies", func() error {
		if err := c.Ask(await.Within(w.t, await.SilenceTime)); err == nil {
			w.t.Error("a question was answered, although the answer was taken")
		}
		return w.prom.LackedSeries("rate(replypath_lost_packets_total[5m]) > 0.02", "{{reason}}") // as the alert has it
	})
	await.Must(w.t, thief.Close())
	traffic.Ask(w.t, c) // what fails now is in the way of a plan
	asked := w.expressions("8. Watch", 5)
	w.wantInstances(asked[1], host, w.servers[2]) // the rule of the other still does its work
	w.wantInstances(asked[2], host)
	w.wantInstances(asked[4], host)
}

// removeRule is step 9.
func (w *walk) removeRule() {
	w.t.Helper()
	commands := w.commands("9. Rules that may go", 5)
	w.typed(commands[0], 0)
	await.Says(w.t, "the playbook", w.typed(commands[1], 0), rule)
	await.Says(w.t, "the playbook", w.typed(commands[2], 0), rule)
	w.typed(commands[3], 0)
	w.wantMoved(w.servers[1], true)
	await.Says(w.t, "the playbook", w.typed(commands[4], 0), "10.4.0.100")
}

// wantVersion wants the package to have a version.
func (f *fleet) wantVersion(host server, want string) {
	f.t.Helper()
	await.Same(f.t, "the package of "+host.name, "ii "+want, host.m.Run("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}${Version}", "replypath"))
}

// update is step 10.
func (w *walk) update() {
	w.t.Helper()
	commands := w.commands("10. Update", 2)
	w.typed(commands[0], 0)
	w.play(commands[1], changed, changed, same)
	for i, host := range w.servers {
		if i < 2 {
			w.wantVersion(host, "0.2.1-1")
		}
		w.wantMode(host, "enforce")
		w.wantMoved(host, true)
	}
	w.expressions("10. Update", 1)
	w.again(commands[1])
}

// again runs a playbook once more, on all servers at once, and wants none to be touched.
func (w *walk) again(command string) {
	w.t.Helper()
	before := w.installed()
	w.fleet.play(command+" -e replypath_serial=100%", same, same, same)
	await.Same(w.t, "a second run has changed servers", before, w.installed())
}

// installed is what each server's service runs since when, and when its files were last changed.
func (f *fleet) installed() (found []string) {
	for _, host := range f.servers {
		found = append(found, host.m.Run("sh", "-ec", "systemctl show --property=InvocationID,UnitFileState replypath; "+
			"stat --format='%n %i %z' $(command -v replypath) /etc/replypath /etc/replypath/*"))
	}
	return found
}

// back is step 11, and in it a configuration with which nothing is attached.
func (w *walk) back() {
	w.t.Helper()
	commands := w.commands("11. Back", 7)
	w.typed(commands[0], 0)
	w.wantMode(w.servers[0], "observe")
	w.wantMoved(w.servers[0], false)
	w.wantMode(w.servers[2], "enforce")
	for _, command := range commands[1:4] {
		w.typed(command, 0)
	}
	w.want("observe", false, true, false)
	w.typed(commands[4], 0)
	w.typed(commands[5], 0)
	w.wantMoved(w.servers[2], false)
	loop := w.commands("Without Ansible", 1)[0]
	await.Must(w.t, os.WriteFile(w.path("deploy/ansible/hosts"), []byte("db001\ndb002\n"), 0o644))
	w.typed(loop, 0)
	await.Says(w.t, "the playbook", w.fleet.typed("jq .mode db002.json", 0), "observe")

	const none = ` -e replypath_check_seconds=1 -e '{"replypath_config": {"interfaces": [{"name": "none*"}]}}'`
	said := w.fleet.play(ansibleCommands(w.t)[0]+none, failed, untouched, untouched)
	await.Says(w.t, "the playbook", said, "no interface is attached")

	w.play(commands[6], changed, changed, changed)
	await.Same(w.t, "what ansible.md says", ansibleCommands(w.t)[2], commands[6])
	w.want("", false, true, false)
	ruled := w.servers[1].m
	await.Same(w.t, strict+" after all is taken away", "1\n", ruled.Run("sysctl", "-n", strict))
	ruled.Run("sh", "-ec", "sysctl -q "+strict+"=0; ip rule del "+rule)
	w.wantMoved(w.servers[1], false)
}

// ansibleCommands are those of the page of the role: to observe, to enforce, and to take it away.
func ansibleCommands(t *testing.T) (found []string) {
	t.Helper()
	page := await.Must1[[]byte](t)(os.ReadFile("../../docs/guide/ansible.md"))
	for _, b := range testhost.Blocks(string(page)) {
		if strings.HasPrefix(b.Text, "ansible-playbook ") {
			found = append(found, b.Commands()...)
		}
	}
	if len(found) != 3 || slices.Contains(found, "") {
		t.Fatalf("commands of the page: %q", found)
	}
	return found
}
