package attach

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that the kernel lacks what it takes. The message names the
// remedy.
var ErrUnsupported = errors.New("not supported here")

// What attaching by clsact takes of the kernel.
const (
	clsactQdisc = "clsact qdisc"
	bpfFilter   = "bpf filter"
)

// blameKernel explains an error of tc that says that the kernel lacks something: it
// knows no qdisc or filter of that kind (ENOENT), or none at all (EOPNOTSUPP). Others
// stay as they are. The remedy is for both, so that nobody comes back for the second.
func blameKernel(err error, lacking string) error {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return fmt.Errorf("%w: the kernel has no %s: modprobe -a sch_ingress cls_bpf, "+
		"or use a kernel that is built with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: %w", ErrUnsupported, lacking, err)
}
