// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"path/filepath"
	"testing"

	"replypath/loader/config"
)

// Without a file the defaults hold, unless it was asked for.
func TestRunWithoutFile(t *testing.T) {
	named := false
	f := &ConfigFile{Path: filepath.Join(t.TempDir(), "none.yaml"), Named: func() bool { return named }}
	cfg, found, err := f.Load()
	if err != nil || found || cfg.Mode != config.ModeEnforce {
		t.Errorf("load: %+v, %v, %v", cfg, found, err)
	}
	named = true
	if _, found, err := f.Load(); !errors.Is(err, config.ErrInvalid) || found {
		t.Errorf("load: %v, %v", found, err)
	}
}
