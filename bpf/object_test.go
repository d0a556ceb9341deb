// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
)

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
		if slices.Contains(bpf.Shared, name) {
			m.Flags |= unix.BPF_F_MMAPABLE // which the library adds when it makes one
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

// TestVariables: they are what the object says. The mode that was set by hand is the first in every layout.
func TestVariables(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	variables := bpf.Variables()
	for name, v := range spec.Variables {
		if of := variables[name]; v.SectionName != bpf.Control {
			continue
		} else if of == nil || of.SectionName != v.SectionName || of.Offset != v.Offset || of.Size() != v.Size() {
			t.Errorf("%s is %v, not %v: make generate", name, of, v)
		}
	}
	if mode := variables[bpf.DatapathVarModeByHand]; mode.Offset != 0 || mode.Size() != 4 {
		t.Errorf("%v is not the first word", mode)
	}
}

// What BPF_PROG_TEST_RUN cannot reach, and who looks at it instead:
//
//	src              branch                                         why                                             looked at by
//	---------------  ---------------------------------------------  ----------------------------------------------  ---------------------------
//	admission.h      came_by_ipsec: a packet with a secpath         test packets have none, no helper makes one     VM: TestIPsec
//	reply.h          prepare: OUTCOME_BOUND_DEVICE                  the test packet's socket is a bare one that     topology: TestBoundDevice
//	                                                                nobody can bind
//	reply.h          redirect, rewrite_macs: OUTCOME_REWRITE_FAILED bpf_skb_store_bytes fails only without memory   nobody
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
//	table.h          copy_flow: the memory is another's             test runs follow one another                    load on several CPUs
//	count.h          enter_pair: another CPU was first              the same                                        the same
//	replypath.c      attached by cls_bpf, run after a redirect      a redirecting test run sends nothing            topology: frames captured
//	socket.h         ask_socket: a socket in SYN-SENT               the rig's host has no route to send a SYN by    topology: simultaneous open
//	socket.h         ask_socket: a request                          needs packets that the kernel answers           topology: reuse of a tuple
//	everywhere       a NULL from a lookup in an array               the index is in range: the verifier wants it    nobody
