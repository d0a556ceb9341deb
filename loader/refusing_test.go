package loader

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/loader/attach"
)

// refusing attaches, but for one interface.
type refusing struct {
	attacher
	name    string
	halfway bool // one of the programs is replaced before
	once    bool // what is attached after that is taken
	lifted  atomic.Bool
}

func refuse(halfway bool) func(*bed) (func(Options) (*Loader, error), func()) {
	return func(*bed) (func(Options) (*Loader, error), func()) {
		r := &refusing{name: "eth1", halfway: halfway}
		return r.start, func() { r.lifted.Store(true) }
	}
}

// start is New with a step that has eth1 refuse, before the three last ones, which attach,
// adopt the mode and pin.
func (r *refusing) start(o Options) (*Loader, error) {
	l := newLoader(o)
	steps := l.steps()
	steps = slices.Insert(steps, len(steps)-3, func() error {
		r.attacher, l.attacher = l.attacher, r
		return nil
	})
	return l, l.attempt(steps)
}

func (r *refusing) Attach(i attach.Interface, programs attach.Programs) (attach.Result, error) {
	if i.Name != r.name || r.lifted.Load() {
		return r.attacher.Attach(i, programs)
	}
	if r.halfway {
		if _, err := r.attacher.Replace(i, attach.Ingress, programs.Ingress); err != nil {
			return attach.Result{}, err
		}
	}
	r.lifted.Store(r.once)
	return attach.Result{}, errInjected
}

func (r *refusing) Replace(i attach.Interface, direction attach.Direction, program *ebpf.Program) (bool, error) {
	if i.Name == r.name && !r.halfway && !r.lifted.Load() {
		return false, errInjected
	}
	return r.attacher.Replace(i, direction, program)
}

// fillTCX puts programs of somebody else in every place at eth1's ingress.
func fillTCX(b *bed) (start func(Options) (*Loader, error), lift func()) {
	b.Helper()
	var links []link.Link
	b.inside(func() error {
		device, err := b.host.Netlink().LinkByName("eth1")
		for err == nil && len(links) <= 64 {
			var l link.Link
			if l, err = attachForeign(device.Attrs().Index); err == nil {
				links = append(links, l)
			}
		}
		return nil
	})
	if len(links) == 0 {
		b.Fatal("eth1 takes no program at all")
	}
	leave := func() {
		for _, l := range links {
			must(b.T, errors.Join(l.Detach(), l.Close()))
		}
		links = nil
	}
	b.Cleanup(leave)
	return New, leave
}

// attachForeign attaches a program that has no opinion.
func attachForeign(index int) (link.Link, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return nil, err
	}
	defer program.Close()
	return link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
}

// takeQdisc puts an ingress qdisc where the one of clsact would have to be.
func takeQdisc(b *bed) (start func(Options) (*Loader, error), lift func()) {
	b.Helper()
	b.run("tc", "qdisc", "add", "dev", "eth1", "ingress")
	return New, func() { b.run("tc", "qdisc", "del", "dev", "eth1", "ingress") }
}
