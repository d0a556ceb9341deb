// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fakeTC is a kernel whose tc fails as it is told to.
type fakeTC struct {
	qdiscs                          []netlink.Qdisc
	filters                         []netlink.Filter
	qdiscList, qdiscAdd, filterList error
	ingress, egress                 error // of a filter that is attached
}

func (f *fakeTC) QdiscList(netlink.Link) ([]netlink.Qdisc, error) { return f.qdiscs, f.qdiscList }

func (f *fakeTC) QdiscAdd(q netlink.Qdisc) error {
	if f.qdiscAdd == nil {
		f.qdiscs = append(f.qdiscs, q)
	}
	return f.qdiscAdd
}

func (f *fakeTC) QdiscDel(netlink.Qdisc) error {
	f.qdiscs = nil
	return nil
}

func (f *fakeTC) FilterList(_ netlink.Link, parent uint32) ([]netlink.Filter, error) {
	others := func(filter netlink.Filter) bool { return filter.Attrs().Parent != parent }
	return slices.DeleteFunc(slices.Clone(f.filters), others), f.filterList
}

func (f *fakeTC) FilterReplace(filter netlink.Filter) error {
	err := f.egress
	if filter.Attrs().Parent == parent(Ingress) {
		err = f.ingress
	}
	if err == nil {
		f.filters = append(f.filters, filter)
	}
	return err
}

func (f *fakeTC) FilterDel(netlink.Filter) error {
	f.filters = nil
	return nil
}

func newProgram(t *testing.T) *ebpf.Program {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return program
}

// A kernel without the qdisc or the filter is told by name, with the remedy, and is left as it was. Every other error
// stays what it is.
func TestClsactOfAnotherKernel(t *testing.T) {
	const remedy = "modprobe -a sch_ingress cls_bpf, " +
		"or use a kernel that is built with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: "
	const noQdisc = "not supported here: the kernel has no clsact qdisc: " + remedy
	const noFilter = "not supported here: the kernel has no bpf filter: " + remedy
	program := newProgram(t)
	for name, test := range map[string]struct {
		kernel      fakeTC
		want        string
		unsupported bool
	}{
		"without sch_ingress": {fakeTC{qdiscAdd: unix.ENOENT},
			"add clsact qdisc to eth0: " + noQdisc + "no such file or directory", true},
		"without any qdisc": {fakeTC{qdiscList: unix.EOPNOTSUPP},
			"list qdiscs of eth0: " + noQdisc + "operation not supported", true},
		"without cls_bpf": {fakeTC{ingress: unix.ENOENT},
			"attach filter on eth0 ingress: " + noFilter + "no such file or directory", true},
		"without cls_bpf any more": {fakeTC{egress: unix.ENOENT},
			"attach filter on eth0 egress: " + noFilter + "no such file or directory", true},
		"without any filter": {fakeTC{filterList: unix.EOPNOTSUPP, ingress: unix.EOPNOTSUPP},
			"attach filter on eth0 ingress: " + noFilter + "operation not supported", true},
		"without rights":     {fakeTC{qdiscAdd: unix.EPERM}, "add clsact qdisc to eth0: operation not permitted", false},
		"without the device": {fakeTC{qdiscAdd: unix.ENODEV}, "add clsact qdisc to eth0: no such device", false},
		"without memory":     {fakeTC{egress: unix.ENOMEM}, "attach filter on eth0 egress: cannot allocate memory", false},
		"a bad program":      {fakeTC{egress: unix.EINVAL}, "attach filter on eth0 egress: invalid argument", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Attacher{dir: t.TempDir(), nl: &test.kernel, force: Clsact}
			_, err := a.Attach(Interface{Index: 2, Name: "eth0"}, Programs{Ingress: program, Egress: program})
			if err == nil || err.Error() != test.want || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if got := errors.Is(err, ErrUnsupported); got != test.unsupported {
				t.Errorf("%v: unsupported: %t", err, got)
			}
			if len(test.kernel.qdiscs) != 0 || len(test.kernel.filters) != 0 {
				t.Errorf("left: qdiscs %v, filters %v", test.kernel.qdiscs, test.kernel.filters)
			}
		})
	}
}

// TCX takes no filters: a kernel that has none has nothing to be cleaned up either.
func TestTCXWithoutFilters(t *testing.T) {
	a := &Attacher{dir: t.TempDir(), nl: &fakeTC{qdiscList: unix.EOPNOTSUPP, filterList: unix.EOPNOTSUPP}}
	if err := a.Detach(Interface{Index: 2, Name: "eth0"}); err != nil {
		t.Error(err)
	}
}
