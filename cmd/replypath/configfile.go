package main

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"replypath/loader/config"
)

// configFile is the configuration file that the flags name.
type configFile struct {
	path  string
	named func() bool // by the user: then it has to be there
}

func addConfigFile(c *cobra.Command) *configFile {
	f := &configFile{named: func() bool { return c.Flags().Changed("config") }}
	c.Flags().StringVar(&f.path, "config", config.DefaultPath, "configuration `file`; need not exist unless it is named here")
	if err := c.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // there is no such flag
	}
	return f
}

// load returns the configuration, and whether the file is there: without it,
// and unless it was named, the default holds.
func (f *configFile) load() (cfg *config.Config, found bool, err error) {
	cfg, err = config.Load(f.path)
	found = !errors.Is(err, fs.ErrNotExist)
	if !found && !f.named() {
		return config.Default(), false, nil
	}
	return cfg, found, err
}
