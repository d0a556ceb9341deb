package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"replypath/loader/config"
)

// checkResult is what `replypath check` found.
type checkResult struct {
	File     string   `json:"file"`
	Present  bool     `json:"present"` // else the defaults are valid
	Valid    bool     `json:"valid"`
	Error    *string  `json:"error"`
	Warnings []string `json:"warnings"`
}

func newCheck(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Tell whether the configuration is valid",
		Long: `Tell whether the configuration is valid, exit code 0, or what is wrong with it,
exit code 2, and warn of what has no effect on this host. What the interfaces that
are there can never do, such as next_hop: last-hop on a tunnel without an Ethernet
header, is not valid either. It needs no rights. See replypath.yaml(5).`,
		Args: noArguments,
	}
	file := addConfigFile(c)
	o := addOutput(c)
	c.RunE = func(*cobra.Command, []string) error {
		result, err := a.check(file)
		if err != nil && o.format == outputTable {
			return err
		}
		return errors.Join(err, o.print(a.stdout, result, result.print))
	}
	return c
}

// check reads the file. An error stands in the result as well.
func (a *app) check(file *configFile) (*checkResult, error) {
	result := &checkResult{File: file.path, Warnings: []string{}}
	cfg, found, err := file.load()
	if err == nil {
		err = result.checkWebConfig(cfg)
	}
	result.Present = found
	if err == nil {
		err = result.compare(a.warnings(cfg))
	}
	if err != nil {
		text := err.Error()
		result.Error = &text
		return result, err
	}
	result.Valid = true
	return result, nil
}

// compare takes what the host has to say of a valid file. That it could not be
// asked is a warning only.
func (r *checkResult) compare(warnings []string, err error) error {
	switch {
	case errors.Is(err, config.ErrInvalid):
		return err
	case err != nil:
		r.warn(fmt.Sprintf("cannot compare it with this host: %v", err))
	}
	r.warn(warnings...)
	return nil
}

// checkWebConfig looks into the file that metrics.web_config_file names. It may
// hold secrets, so that not being allowed to is no error.
func (r *checkResult) checkWebConfig(cfg *config.Config) error {
	err := checkMetrics(&cfg.Metrics)
	if errors.Is(err, fs.ErrPermission) {
		r.warn(fmt.Sprintf("metrics.web_config_file: not checked: %v", err))
		return nil
	}
	return err
}

func (r *checkResult) warn(warnings ...string) { r.Warnings = append(r.Warnings, warnings...) }

func (r *checkResult) print(w io.Writer) error {
	state := "valid"
	if !r.Present {
		state = "not there, the defaults are valid"
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n", r.File, state); err != nil {
		return err
	}
	for _, warning := range r.Warnings {
		if _, err := fmt.Fprintf(w, "%s: warning: %s\n", r.File, warning); err != nil {
			return err
		}
	}
	return nil
}
