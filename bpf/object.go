// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/sha256"
	"sync"
)

// ObjectDigest returns that of the compiled datapath.
var ObjectDigest = sync.OnceValue(func() [sha256.Size]byte { return sha256.Sum256(_DatapathBytes) })
