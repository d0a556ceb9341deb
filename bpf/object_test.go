// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// TestExchanges: kernels before 5.12 refuse programs with an atomic exchange, wherever it stands.
func TestExchanges(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		spec, err := bpf.LoadDatapath()
		if err != nil {
			t.Fatal(err)
		}
		if err := bpf.SetFeatures(spec, bpf.Features{Barrier: wanted}); err != nil {
			t.Fatal(err)
		}
		if n := countExchanges(spec); wanted != (n > 0) {
			t.Errorf("barriers wanted: %t, %d exchanges", wanted, n)
		}
	}
}

func countExchanges(spec *ebpf.CollectionSpec) (n int) {
	for _, program := range spec.Programs {
		for _, i := range program.Instructions {
			if i.OpCode == asm.Xchg.OpCode(asm.DWord) {
				n++
			}
		}
	}
	return n
}

// access is reading or writing memory, by a line of the source.
type access struct {
	class asm.Class
	line  string
}

// ordered are accesses that other CPUs have to see in this order, or that have to see others' in it. There is an
// exchange between them in each program.
var ordered = []struct {
	what          string
	before, after access
}{
	{"an entry's old digest goes before its flow is written", access{asm.StXClass, "set->digest[way] = 0;"}, access{asm.StXClass, "set->flow[way] = *flow;"}},
	{"a flow is written before its digest", access{asm.StXClass, "set->flow[way] = *flow;"}, access{asm.StXClass, "set->digest[way] = digest;"}},
	{"who goes with a flow reads its interface before its MAC", access{asm.LdXClass, "to[0] = words[0];"}, access{asm.LdXClass, "to[1] = words[1];"}},
	{"and after it once more the interface", access{asm.LdXClass, "to[1] = words[1];"}, access{asm.LdXClass, "return words[0] == to[0];"}},
	{"a flow that moves has no interface before it has another MAC", access{asm.StXClass, "to[0] = 0;"}, access{asm.StXClass, "to[1] = from[1];"}},
	{"it has the MAC before the interface", access{asm.StXClass, "to[1] = from[1];"}, access{asm.StXClass, "to[0] = from[0];"}},
	{"who replies reads the interface before the MAC", access{asm.LdXClass, "__u32 ifindex = *(volatile __u32 *)&flow->ifindex;"},
		access{asm.LdXClass, "return *(const volatile mac_word *)mac;"}},
	{"and after it once more the interface that it was for", access{asm.LdXClass, "return *(const volatile mac_word *)mac;"},
		access{asm.LdXClass, "if (unlikely(*(volatile const __u32 *)&flow->ifindex != target->ifindex))"}},
	{"a flow has its way before it is live", access{asm.StXClass, "to[0] = from[0];"}, access{asm.StXClass, "__builtin_memcpy(old, flow, offsetof(struct flow, ifindex));"}},
}

// TestOrder: in the programs with barriers, one stands wherever other CPUs depend on the order.
func TestOrder(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ordered {
		t.Run(o.what, func(t *testing.T) {
			pairs := 0
			for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
				n, unordered := inOrder(spec.Programs[name].Instructions, o.before, o.after)
				if pairs += n; unordered {
					t.Errorf("%s: nothing orders %q and %q", name, o.before.line, o.after.line)
				}
			}
			if t.Logf("%d times", pairs); pairs == 0 {
				t.Errorf("no program does that")
			}
		})
	}
}

// inOrder counts how often one access follows another one, and tells whether no exchange is between them once.
func inOrder(program asm.Instructions, before, after access) (pairs int, unordered bool) {
	var line string
	first, exchanged := false, false
	for _, i := range program {
		if source := i.Source(); source != nil {
			line = strings.TrimSpace(source.String())
		}
		switch {
		case i.OpCode == asm.Xchg.OpCode(asm.DWord):
			exchanged = true
		case i.OpCode.Class() == before.class && line == before.line:
			first, exchanged = true, false
		case i.OpCode.Class() == after.class && line == after.line && first:
			pairs++
			unordered = unordered || !exchanged
			first = false
		}
	}
	return pairs, unordered
}

// TestShapes: they are what the object says.
func TestShapes(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	shapes := bpf.Shapes()
	for name, m := range spec.Maps {
		s := shapes[name]
		if bpf.IsInternal(name) {
			if s != nil {
				t.Errorf("%s is none that is pinned", name)
			}
			continue
		}
		if s == nil {
			t.Errorf("%s is missing: make generate", name)
		} else if s.Name != m.Name || s.Type != m.Type || s.KeySize != m.KeySize || s.ValueSize != m.ValueSize ||
			s.MaxEntries != m.MaxEntries || s.Flags != m.Flags {
			t.Errorf("%s is %v, not %v: make generate", name, s, m)
		}
	}
	if len(shapes) == 0 {
		t.Error("there are none")
	}
}

// What BPF_PROG_TEST_RUN cannot reach, and who looks at it instead:
//
//	src              branch                                         why                                             looked at by
//	---------------  ---------------------------------------------  ----------------------------------------------  ---------------------------
//	admission.h      came_by_ipsec: a packet with a secpath         test packets have none, no helper makes one     VM: TestIPsec
//	reply.h          prepare: OUTCOME_BOUND_DEVICE                  the test packet's socket is a bare one that     topology: TestBoundDevice
//	                                                                nobody can bind
//	reply.h          redirect, readdress: OUTCOME_REWRITE_FAILED    bpf_skb_store_bytes fails only without memory   nobody
//	socket.h         ignores_path_mtu: a socket of IPv4 or IPv6     the same                                        topology: IP_PMTUDISC_OMIT
//	reply.h          is_writable, has_own_headers: a packet that    test packets are not                            topology: TCP data, of which the
//	                 is shared                                                                                      socket keeps the original
//	reply.h          replypath_send: a frame below 12 bytes         is_writable has looked                          nobody
//	reply.h          redirect: OUTCOME_NO_HEADER_ROOM               bpf_skb_change_head fails for packets of more   topology: TestNoHeaderRoom
//	                                                                than 16 KiB, or without memory
//	mtu.h            fits_interface: a GSO packet beyond the MTU    test packets have no transport header, so that  topology: bulk TCP between
//	                 whose segments fit, by bpf_check_mtu           the helper finds every such packet too large    interfaces of unlike MTU
//	parse.h          read: headers outside of the linear part       kernels before 6.19 make linear packets only    TestParseNonLinear on newer
//	                                                                (far offsets take the same branch: they are     kernels
//	                                                                tested)
//	table.h          fill: another CPU took the way first           test runs follow one another                    load on several CPUs
//	count.h          count_new_pair: another CPU was first          the same                                        the same
//	replypath.c      attached by cls_bpf, run after a redirect      a redirecting test run sends nothing            topology: frames captured
//	socket.h         ask_socket: a socket in SYN-SENT               the rig's host has no route to send a SYN by    topology: simultaneous open
//	socket.h         ask_socket: a request                          needs packets that the kernel answers           topology: reuse of a tuple
//	everywhere       a NULL from a lookup in an array               the index is in range: the verifier wants it    nobody
