// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/test/await"
)

// attachFunc attaches as a test wants it, by the loader's own attacher.
type attachFunc func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error)

// testAttacher is the loader's own but for that.
type testAttacher struct {
	attach.Means
	attach attachFunc
}

func (a *testAttacher) Attach(i attach.Interface, programs attach.Programs) (attach.Result, error) {
	return a.attach(a.Means, i, programs)
}

// attachBy has a running loader attach by it.
func (r *running) attachBy(attach attachFunc) {
	r.locked(func() error { r.attacher = &testAttacher{r.attacher, attach}; return nil })
}

// startBy is New with a step that puts such an attacher in place, before the three last ones, which attach, adopt the mode
// and pin.
func startBy(attach attachFunc) func(Options) (*Loader, error) {
	return func(o Options) (*Loader, error) {
		l := &Loader{newCore(o)}
		steps := start{l.core}.steps()
		steps = slices.Insert(steps, len(steps)-3, func() error {
			l.attacher = &testAttacher{l.attacher, attach}
			return nil
		})
		return l, start{l.core}.attempt(steps)
	}
}

// doFirst does something before anything is attached.
func doFirst(do func()) attachFunc {
	return func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error) {
		do()
		do = func() {}
		return own.Attach(i, programs)
	}
}

// dieIn attaches until one of the moments in which only a part of what belongs to an interface is there: the qdisc where the
// mechanism has one, the first program, all of them but nothing after that. The process is killed in that.
func dieIn(moment int) attachFunc {
	return func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error) {
		for _, part := range []attach.Programs{{}, {Ingress: programs.Ingress}, programs} {
			if moment > 0 {
				moment--
				continue
			}
			_, err := own.Attach(i, part)
			return attach.Result{}, errors.Join(err, die())
		}
		return own.Attach(i, programs)
	}
}

// obstacle keeps eth1 from taking programs. It returns how to start, and how to end that.
type obstacle func(*server) (start func(Options) (*Loader, error), lift func())

// refuse has the loader's own attacher do it.
func refuse(halfway bool) obstacle {
	return func(*server) (func(Options) (*Loader, error), func()) {
		lifted := new(atomic.Bool)
		return startBy(refuseEth1(halfway, false, lifted)), func() { lifted.Store(true) }
	}
}

// refuseEth1 refuses eth1's programs, where it is halfway after one of them was replaced, once or until that is lifted.
func refuseEth1(halfway, once bool, lifted *atomic.Bool) attachFunc {
	return func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error) {
		if i.Name != "eth1" || lifted.Load() {
			return own.Attach(i, programs)
		}
		if halfway {
			if _, err := own.Attach(i, attach.Programs{Ingress: programs.Ingress}); err != nil {
				return attach.Result{}, err
			}
		}
		lifted.Store(once)
		return attach.Result{}, errInjected
	}
}

// fillTCX puts programs of somebody else, without an opinion, in every place at eth1's ingress.
func fillTCX(b *server) (start func(Options) (*Loader, error), lift func()) {
	b.Helper()
	var links []link.Link
	b.inside(func() error {
		for len(links) <= 64 {
			program, err := ebpf.NewProgram(&ebpf.ProgramSpec{ // which can be there only once
				Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
			})
			await.Must(b.T, err)
			defer program.Close()
			l, err := link.AttachTCX(link.TCXOptions{Interface: b.eth1.Index, Program: program, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				break
			}
			links = append(links, l)
		}
		return nil
	})
	if len(links) == 0 {
		b.Fatal("eth1 takes no program at all")
	}
	leave := func() {
		for _, l := range links {
			await.Must(b.T, errors.Join(l.Detach(), l.Close()))
		}
		links = nil
	}
	b.Cleanup(leave)
	return New, leave
}

// takeQdisc puts an ingress qdisc where the one of clsact would have to be.
func takeQdisc(b *server) (start func(Options) (*Loader, error), lift func()) {
	b.Helper()
	b.tc("qdisc add dev eth1 ingress")
	return New, func() { b.tc("qdisc del dev eth1 ingress") }
}

// hollow returns programs of the names, types and maps of the product's, which the verifier is soon done with: for tests of
// what is loaded, attached, pinned and undone when. They let every packet pass. Those that user space runs are the product's.
func hollow(build string) *datapath.Object {
	return &datapath.Object{Name: "hollow, " + build, Load: func() (*ebpf.CollectionSpec, error) {
		spec, err := hollowSpec()
		if err != nil {
			return nil, err
		}
		return spec.Copy(), nil
	}}
}

// anotherBuild has the programs be others that do the same.
func anotherBuild(o *Options) {
	if o.object != nil {
		o.object = hollow("another build")
	} else {
		o.object = &datapath.Object{Name: "another build", Load: bpf.LoadDatapath}
	}
}

func thirdBuild(o *Options) { o.object = hollow("a third build") }

var hollowSpec = sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	for name, program := range spec.Programs {
		verdict := int32(-1) // TCX_NEXT
		switch {
		case name == "replypath_clock":
			continue
		case program.Type == ebpf.CGroupSockAddr:
			verdict = 1
		}
		program.Instructions = asm.Instructions{
			asm.LoadMapPtr(asm.R1, 0).WithReference(bpf.DatapathMapCells), // by which they are told from another datapath's
			asm.LoadMapPtr(asm.R1, 0).WithReference(".rodata"),            // which says for which namespace, to tests beside these
			asm.Mov.Imm(asm.R0, verdict), asm.Return(),
		}
	}
	return spec, nil
})
