// SPDX-License-Identifier: Apache-2.0

// Package scenario runs the networks that people brought: each is first shown
// broken without replypath, then right with it. A test stands in the file whose
// name begins with the question:
//
//   - s1 to s9, balancers: is the network of a recipe right, and the recipe beside it?
//   - answers: is each kind of answer moved, also to unusual addresses?
//   - tcp: does a connection keep its way from its first segment to its last?
//   - begun: does what the server began go as routed, whoever asks meanwhile?
//   - follow: does a flow follow its peer to another way, and nobody else?
//   - nexthop: which router, and which MACs, does an answer get?
//   - source: which address answers from a socket that is bound to none?
//   - errors: which way do ICMP errors and refusals go, and do they arrive?
//   - size: what becomes of what is too large, and of fragments?
//   - forward: what happens to what the server forwards, or answers for others?
//   - routed: is what is excluded or forbidden left alone, and what was moved and never left counted?
//   - origin: does what the host begins leave by the interface of its source, where that is wanted?
//   - show: do explain, top, trace and a capture show what leaves?
//
// The other files have what several of them use.
package scenario

import (
	"testing"

	"replypath/test/product"
	_ "replypath/test/product/inprocess"
)

func TestMain(m *testing.M) { product.Main(m) }
