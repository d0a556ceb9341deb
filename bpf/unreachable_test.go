// SPDX-License-Identifier: Apache-2.0

package bpf_test

// What BPF_PROG_TEST_RUN cannot reach, and who looks at it instead:
//
//	src              branch                                         why                                             looked at by
//	---------------  ---------------------------------------------  ----------------------------------------------  ---------------------------
//	admission.h      came_by_ipsec: a packet with a secpath         test packets have none, no helper makes one     VM: TestIPsec
//	reply.h          prepare: OUTCOME_BOUND_DEVICE                  the test packet's socket is a bare one that     topology: TestBoundDevice
//	                                                                nobody can bind
//	reply.h          move, readdress: OUTCOME_REWRITE_FAILED        bpf_skb_store_bytes fails only without memory   nobody
//	pmtudisc.h           ignores_path_mtu: a socket of IPv4 or IPv6              the same                                        topology: IP_PMTUDISC_OMIT
//	send.h           is_writable, has_own_headers: a packet that    test packets are not                            topology: TCP data, of which the
//	                 is shared                                                                                      socket keeps the original
//	send.h           replypath_send: a frame below 12 bytes         is_writable has looked                          nobody
//	reply.h          move: OUTCOME_NO_HEADER_ROOM                   bpf_skb_change_head fails for packets of more   topology: TestNoHeaderRoom
//	                                                                than 16 KiB, or without memory
//	mtu.h            segments_fit: a GSO packet beyond the MTU      test packets have no transport header, so that  topology: bulk TCP between
//	                 whose segments fit, by bpf_check_mtu           the helper finds every such packet too large    interfaces of unlike MTU
//	parse.h          read: headers outside of the linear part       kernels before 6.19 make linear packets only    TestParseNonLinear on newer
//	                                                                (far offsets take the same branch: they are     kernels
//	                                                                tested)
//	table.h          fill: another CPU took the way first           test runs follow one another                    load on several CPUs
//	pair.h           count_pair_in_hash: another CPU was first      the same                                        the same
//	replypath.c      attached by cls_bpf, run after a redirect      a redirecting test run sends nothing            topology: frames captured
//	segment.h        is_opening: a socket in SYN-SENT               the rig's host has no route to send a SYN by    topology: simultaneous open
//	segment.h        a request or TIME_WAIT socket                  needs packets that the kernel answers           topology: reuse of a tuple
//	everywhere       a NULL from a lookup in an array               the index is in range: the verifier wants it    nobody
