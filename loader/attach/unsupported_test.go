// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A kernel without the qdisc or the filter is told by name, with the remedy. Every other error stays what it is.
func TestKernelWithoutClsact(t *testing.T) {
	const remedy = "modprobe -a sch_ingress cls_bpf, or use a kernel that is built with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: "
	for err, want := range map[error]string{
		unix.ENOENT:     "not supported here: the kernel has no clsact qdisc: " + remedy + "no such file or directory",
		unix.EOPNOTSUPP: "not supported here: the kernel has no clsact qdisc: " + remedy + "operation not supported",
		unix.EPERM:      "operation not permitted",
	} {
		got := blameKernel(err, clsactQdisc)
		if got.Error() != want || errors.Is(got, ErrUnsupported) != (err != unix.EPERM) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
