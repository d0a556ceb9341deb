// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/test/harness"
)

// refusing attaches, but for one interface.
type refusing struct {
	attachment.Attacher
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

func (r *refusing) start(o Options) (*Loader, error) {
	return startBy(o, func(a attachment.Attacher) attachment.Attacher { r.Attacher = a; return r })
}

// startBy is New with a step that puts another attacher before its own, before the three
// last ones, which attach, adopt the mode and pin.
func startBy(o Options, wrap func(attachment.Attacher) attachment.Attacher) (*Loader, error) {
	l := &Loader{newCore(o)}
	steps := start{l.core}.steps()
	steps = slices.Insert(steps, len(steps)-3, func() error {
		l.attacher = wrap(l.attacher)
		return nil
	})
	return l, start{l.core}.attempt(steps)
}

// dying attaches until one of the moments in which only a part of what belongs to an
// interface is there: the qdisc where the mechanism has one, the first program, all of
// them but nothing after that. The process is killed in that.
type dying struct {
	attachment.Attacher
	moments int // before that
}

func (d *dying) start(o Options) (*Loader, error) {
	return startBy(o, func(a attachment.Attacher) attachment.Attacher { d.Attacher = a; return d })
}

func (d *dying) Attach(i attach.Interface, programs attach.Programs) (attach.Result, error) {
	for _, part := range []attach.Programs{{}, {Ingress: programs.Ingress}, programs} {
		if d.moments > 0 {
			d.moments--
			continue
		}
		_, err := d.Attacher.Attach(i, part)
		return attach.Result{}, errors.Join(err, die())
	}
	return d.Attacher.Attach(i, programs)
}

func (r *refusing) Attach(i attach.Interface, programs attach.Programs) (attach.Result, error) {
	if i.Name != r.name || r.lifted.Load() {
		return r.Attacher.Attach(i, programs)
	}
	if r.halfway {
		if _, err := r.Attacher.Attach(i, attach.Programs{Ingress: programs.Ingress}); err != nil {
			return attach.Result{}, err
		}
	}
	r.lifted.Store(r.once)
	return attach.Result{}, errInjected
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
			harness.Must(b.T, errors.Join(l.Detach(), l.Close()))
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
