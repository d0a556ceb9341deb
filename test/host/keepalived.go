// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// StartKeepalived runs keepalived on a host with a configuration.
func StartKeepalived(t testing.TB, host *topology.Host, config string) *product.Program {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "keepalived.conf")
	await.Must(t, os.WriteFile(file, []byte(config), 0o600))
	c := host.Command(t.Context(), "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", file, "--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
	return product.StartProgram(t, c, unix.SIGTERM)
}
