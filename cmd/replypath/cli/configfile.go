// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"replypath/loader/config"
)

// ConfigFile is the configuration file that the flags name.
type ConfigFile struct {
	Path  string
	Named func() bool // by the user: then it has to be there
}

// AddConfigFile gives a command the flag --config.
func AddConfigFile(c *cobra.Command) *ConfigFile {
	f := &ConfigFile{Named: func() bool { return c.Flags().Changed("config") }}
	c.Flags().StringVar(&f.Path, "config", config.DefaultPath, "configuration `file`; need not exist unless it is named here")
	must(c.MarkFlagFilename("config", "yaml", "yml"))
	return f
}

// Load returns the configuration, and whether the file is there: without it,
// and unless it was named, the default holds. An error that matches config.ErrInvalid
// says what is wrong with it.
func (f *ConfigFile) Load() (cfg *config.Config, found bool, err error) {
	cfg, err = config.Load(f.Path)
	found = !errors.Is(err, fs.ErrNotExist)
	if !found && !f.Named() {
		return config.Default(), false, nil
	}
	return cfg, found, err
}
