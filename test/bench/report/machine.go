// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what the figures depend on beside the code.
type Machine struct {
	Kernel  string `json:"kernel"`
	CPU     string `json:"cpu"`
	CPUs    int    `json:"cpus"`
	Memory  uint64 `json:"memory_bytes"`
	Virtual bool   `json:"virtual"` // the CPU says that there is a hypervisor
	// Mitigations are the kernel's words for each vulnerability of the CPU.
	Mitigations map[string]string `json:"mitigations"`
	// Settings are kernel settings that matter, by sysctl.
	Settings map[string]string `json:"settings"`
	// Load is the load average of the last minute before the run.
	Load float64 `json:"load"`
}

// settings change what a packet costs.
var settings = []string{
	"kernel/bpf_stats_enabled", "net/core/bpf_jit_enable", "net/core/bpf_jit_harden",
	"net/netfilter/nf_conntrack_max",
}

// DescribeMachine reads what the machine tells. What it does not tell stays empty.
func DescribeMachine() Machine {
	m := Machine{
		CPUs: runtime.NumCPU(), Mitigations: make(map[string]string), Settings: make(map[string]string),
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = info.Totalram * uint64(info.Unit)
		m.Load = float64(info.Loads[0]) / (1 << unix.SI_LOAD_SHIFT)
	}
	m.readCPU()
	m.readMitigations()
	for _, key := range settings {
		if text, err := os.ReadFile(filepath.Join("/proc/sys", key)); err == nil {
			m.Settings[strings.ReplaceAll(key, "/", ".")] = strings.TrimSpace(string(text))
		}
	}
	return m
}

func (m *Machine) readCPU() {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Virtual = strings.Contains(value+" ", " hypervisor ")
		}
	}
}

func (m *Machine) readMitigations() {
	files, err := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*")
	if err != nil {
		return
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			m.Mitigations[filepath.Base(file)] = strings.TrimSpace(string(text))
		}
	}
}

// Describe returns the machine in a line.
func (m *Machine) Describe() string {
	kind := "hardware"
	if m.Virtual {
		kind = "a virtual machine"
	}
	return fmt.Sprintf("Linux %s, %s, %d CPUs, %d GiB, %s, load %s before the run",
		m.Kernel, m.CPU, m.CPUs, m.Memory>>30, kind, strconv.FormatFloat(m.Load, 'f', 2, 64))
}
