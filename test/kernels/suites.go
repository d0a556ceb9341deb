// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"replypath/test/restarts/builds"
)

// suite is something that is run in the virtual machines: the tests of a package, or a command.
type suite struct {
	name    string
	pkg     string          // import path below the module
	run     string          // regular expression of tests
	skip    string          // of those among them that are left out
	brief   *brief          // which of them are run with -short, where not all are
	command string          // in the place of a package
	program string          // import path of what the command runs, built as /tests/<name>
	tools   []string        // programs of this machine that it needs beside those of tools.txt
	builds  []*builds.Build // that it changes to, built as /tests/<name>
	setting string          // variables of its environment, with spaces between them
	nics    bool            // needs the emulated NICs
	extra   bool            // is run only where it is named
	only    []string        // versions of the kernels that it is run on, all where none is named
	timeout time.Duration
}

// brief is a choice of tests, as run and skip are.
type brief struct{ run, skip string }

// kinds are tests of devices that the machine's own kernel may lack. The suite devices has the others of their package.
const kinds = "^Test(Bond|DummyAddress|Features|IPsec|LVS(DirectRouting|Translation)|Netem" +
	"|Pacing|Tun|Tunnel(Kept|OverReplication|Roams)|VLAN(Tags)?|VRF(Accept)?|WireGuard)$"

// suites are all of them, in the order in which they are run.
var suites = []suite{
	// The machine's own kernel shows the programs of a kernel that has less.
	{name: "verifier", pkg: "bpf/internal/verify", timeout: 10 * time.Minute,
		brief: &brief{run: "^TestLookupsAreInlined$|^TestVerifier$/^all_that_this_kernel_has$"}},
	// The verifier is slow under emulation: this one, and loader, were never seen to end there.
	{name: "bpf", pkg: "bpf", extra: true, timeout: 30 * time.Minute},
	// Of these, what differs between processors.
	{name: "tails", pkg: "bpf", run: "^TestFallbackRefuses$", extra: true, timeout: 10 * time.Minute},
	{name: "demo", program: "cmd/replypath-demo", command: "/tests/demo", timeout: 5 * time.Minute},
	{name: "scenario", pkg: "test/scenario", run: "^TestS1$", timeout: 15 * time.Minute},
	{name: "scenarios", pkg: "test/scenario", timeout: 30 * time.Minute,
		run:   "^(TestS2|TestS3aOneNIC|TestS3aTwoNICs|TestS3b|TestS3c|TestS4|TestS5|TestS6|TestS7)$",
		brief: &brief{run: "^(TestS2|TestS7)$", skip: "/^strict_uRPF$"}},
	{name: "floods", pkg: "test/floods", timeout: 30 * time.Minute, run: "^(TestFloods|TestEvicted)$",
		brief: &brief{run: "^TestFloods$/^ipv4$/^SYNs$|^TestFloods$/^ipv6$/^spoofed_FINs_and_RSTs_by_eth0$"}},
	// Without systemd as the first process, and without NetworkManager, which are not in the virtual machine.
	{name: "managers", pkg: "test/managers", timeout: 30 * time.Minute, run: "^(TestNetworkDaemons|TestBoot" +
		"|TestFirewallReloads|TestRulesStay|TestSettingsTaken)$", skip: "/^NetworkManager$"},
	{name: "kinds", pkg: "test/devices", run: kinds, timeout: 30 * time.Minute,
		brief: &brief{run: "^Test(Bond|IPsec|LVS(DirectRouting|Translation)|Netem|Pacing|VLANTags|VRF|WireGuard)$"}},
	{name: "devices", pkg: "test/devices", skip: kinds, timeout: 30 * time.Minute},
	{name: "nics", pkg: "test/devices", run: "^TestNICs$", timeout: 10 * time.Minute, nics: true,
		setting: "REPLYPATH_TEST_NICS=virtio_net,e1000e,vmxnet3", only: []string{"5.10", "6.1", "6.12", "7.2"}},
	// The device of the fallback route is a dummy there. How long a fault interrupts says nothing on an emulated machine.
	{name: "fallback", pkg: "test/faults", timeout: 5 * time.Minute, run: "^(TestFallbackIsPutBack|TestBoundRoute)$",
		brief: &brief{run: "^TestFallbackIsPutBack$"}},
	{name: "rp_filter", pkg: "test/lifecycle", timeout: 5 * time.Minute, run: "^TestStrictRPFilter$"},
	{name: "lifecycle", pkg: "test/lifecycle", timeout: 15 * time.Minute,
		run: "^(TestKill|TestChangeOfMechanism|TestDetachRestores)$"},
	{name: "faults", pkg: "test/faults", timeout: 25 * time.Minute, run: "^(TestWithout|TestFaults|TestFaultsWithoutDaemon)$"},
	// The builds that it changes to are made here: there is no compiler in the virtual machine. It takes a quarter of an hour.
	{name: "restarts", pkg: "test/restarts", extra: true, timeout: 30 * time.Minute, setting: "REPLYPATH_TEST_RESTARTS=3",
		builds: []*builds.Build{&builds.OtherPrograms, &builds.OtherLayout}, tools: []string{"/usr/sbin/sshd", "ssh", "ssh-keygen"}},
	{name: "loader", pkg: "loader", extra: true, timeout: 10 * time.Minute},
	{name: "doctor", pkg: "loader/doctor", timeout: 5 * time.Minute},
	{name: "netfilter", pkg: "loader/netfilter", timeout: 5 * time.Minute},
}

// startTime is how long a virtual machine may take beside its tests.
const startTime = 2 * time.Minute

func suiteNames() []string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return names
}

// chooseSuites returns the named suites, all if none is named, with other tests
// than usual if run is not empty. What stands behind a name and @ are the kernels that it is run on.
func chooseSuites(names, run string) ([]suite, error) {
	chosen := slices.DeleteFunc(slices.Clone(suites), func(s suite) bool { return s.extra })
	if names != "" {
		chosen = nil
		for _, name := range strings.Fields(names) {
			name, only, _ := strings.Cut(name, "@")
			i := slices.IndexFunc(suites, func(s suite) bool { return s.name == name })
			if i < 0 {
				return nil, fmt.Errorf("there is no suite %q: choose of %s", name, strings.Join(suiteNames(), ", "))
			}
			s := suites[i]
			if only != "" {
				s.only = strings.Split(only, ",")
			}
			chosen = append(chosen, s)
		}
	}
	if run != "" {
		for i := range chosen {
			chosen[i].run, chosen[i].skip, chosen[i].brief = run, "", nil
		}
	}
	return chosen, nil
}

// runsOn tells whether a suite is run on a kernel.
func (s *suite) runsOn(version string) bool {
	return len(s.only) == 0 || slices.Contains(s.only, version)
}

// suitesOn are those that are run on a kernel.
func suitesOn(version string, all []suite) []suite {
	return slices.DeleteFunc(slices.Clone(all), func(s suite) bool { return !s.runsOn(version) })
}

func totalTime(suites []suite) time.Duration {
	total := startTime
	for _, s := range suites {
		total += s.timeout + 20*time.Second
	}
	return total
}

// directory is where a suite runs, below the source tree.
func (s *suite) directory() string {
	if s.pkg == "" {
		return "/src"
	}
	return "/src/" + s.pkg
}

// binary is the name of the test binary in the virtual machine.
func (s *suite) binary() string {
	return "/tests/" + strings.ReplaceAll(s.pkg, "/", "-") + ".test"
}

// environment is what stands before the command, for the shell.
func (s *suite) environment() string {
	var text strings.Builder
	for _, b := range s.builds {
		fmt.Fprintf(&text, "%s=/tests/%s ", b.Variable, b.Name)
	}
	if s.setting != "" {
		text.WriteString(s.setting + " ")
	}
	return text.String()
}

// line tells the init script how to run the suite. A short one leaves out what differs little from the rest.
func (s *suite) line(short bool) string {
	command := s.command
	if s.pkg != "" {
		command = fmt.Sprintf("%s -test.v -test.short=%t -test.timeout %s", s.binary(), short, s.timeout)
		run, skip := s.run, s.skip
		if short && s.brief != nil {
			run, skip = s.brief.run, s.brief.skip
		}
		if run != "" {
			command += " -test.run '" + run + "'"
		}
		if skip != "" {
			command += " -test.skip '" + skip + "'"
		}
	}
	// Go's own time-out, which shows where the test hangs, comes first.
	seconds := int((s.timeout + 10*time.Second).Seconds())
	return fmt.Sprintf("%s\t%s\t%d\t%s\n", s.name, s.directory(), seconds, s.environment()+command)
}
