// SPDX-License-Identifier: Apache-2.0

// Package topology builds networks of Linux hosts, routers and switches inside one process, out of network namespaces
// and veth pairs, over netlink.
//
// It serves the tests and two programs, test/bench and cmd/replypath-demo, so it does not import package testing.
// Of other programs it starts ip for devices that are no cables, nft for the policy Stateful, and ethtool. It needs
// root (CAP_SYS_ADMIN to make namespaces, CAP_NET_ADMIN and CAP_NET_RAW in them).
//
// # Lifetime
//
// A [Network] owns all that is made through it and takes it down in [Network.Close]. The namespaces have no name on the
// host: file descriptors, sockets and started processes hold them, so that they vanish with this process also when it
// is killed. Nothing is ever changed in the namespace that the process itself lives in.
//
// # Threads
//
// A network namespace belongs to a thread, not to a process. [Host.Do] moves the calling goroutine's thread for as long
// as a function runs; a socket that was opened in there stays in the namespace and may be used anywhere. A goroutine
// that is started inside the function runs outside.
package topology
