// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"replypath/test/await"
)

func TestSamples(t *testing.T) {
	const text = "# TYPE m counter\nm{a=\"x y\"} 2\nm{a=\"z\"} 3.5\nmore{a=\"z\"} 7\nm_total 1\n"
	found, sum, err := samples(text, "m")
	await.Must(t, err)
	if len(found) != 2 || sum != 5.5 {
		t.Errorf("got %q, the sum is %g", found, sum)
	}
	if _, _, err := samples(`m{a="b"} much`, "m"); err == nil {
		t.Error("a value that is no number was accepted")
	}
}
