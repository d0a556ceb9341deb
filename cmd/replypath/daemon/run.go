package daemon

import (
	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/loader/attach"
	"replypath/loader/config"
)

// NewRun returns the command run.
func NewRun(a *cli.App, host Host) *cobra.Command {
	d := &daemon{App: a, host: host}
	c := &cobra.Command{
		Use:   "run",
		Short: "Attach, keep watch and serve metrics",
		Long: `Attach to every managed interface, keep what the kernel needs to know current and
serve metrics, until SIGTERM or SIGINT. What is attached stays in place when the
process ends, for whatever reason, and goes on to correct replies or to observe
them. The next run takes over without losing a flow; replypath detach takes it away.

There is one datapath in a network namespace. With another --pin-dir it is refused, and
the error names the other's pins and process.

Once everything is attached it logs ready, with mode, interfaces, mechanism and what was
changed on the host, and tells systemd. At its end it logs what stays, and the command
that ends that.

SIGHUP reads the configuration again (see replypath.yaml(5)); a bad file is logged
and the configuration in force stays. Flags win over the file.`,
		Example: `  replypath run
  replypath run --interface eth0 --interface eth1 --observe
  replypath run --config ./replypath.yaml --listen ""`,
		Args: cli.NoArguments,
	}
	d.addFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return d.run(c.Context()) }
	return c
}

// addFlags gives a command the flags that say what is attached.
func (d *daemon) addFlags(c *cobra.Command) {
	d.file = cli.AddConfigFile(c)
	flags := c.Flags()
	flags.StringArrayVar(&d.overrides.Interfaces, "interface", nil, "manage this interface `name` and no others; may be given again; name those of the default routes, too")
	flags.BoolVar(&d.overrides.Observe, "observe", false, "only count what would be moved; attach programs, and change nothing else of the host")
	listen := flags.String("listen", config.Default().Metrics.Listen, "serve metrics at this `address`; empty: do not")
	cli.AddChoice(c, &d.mechanism, "mechanism", "", "tcx|clsact",
		"attach by this only; hundreds of interfaces are attached sooner by clsact", attach.TCX, attach.Clsact)
	cli.Complete(c, "interface", cli.InterfaceNames)
	c.PreRun = func(*cobra.Command, []string) {
		if flags.Changed("listen") {
			d.overrides.Listen = listen
		}
	}
}
