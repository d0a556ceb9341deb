package loader

import (
	"log/slog"
	"time"

	"replypath/loader/datapath"
	"replypath/loader/source"
	"replypath/loader/sourcerepair"
)

// scopeSource is of problems with the source repair.
const scopeSource = "source"

// newSourceRepair returns the owner of the programs on the cgroup.
func (l *Loader) newSourceRepair() *sourcerepair.Repair {
	return sourcerepair.New(sourcerepair.Host{
		Links: l.linksDir, Journal: &l.state, Tx: &l.tx, Log: l.log,
		Repaired: func() { l.countRepair(repairProgram) }, WouldChange: l.wouldChange, Allowance: newAllowance(),
	}, l.config)
}

func (l *Loader) linksDir() string { return l.dir.Path(datapath.LinksDir) }

// describeFeatures fills in what the status says of features.
func (l *Loader) describeFeatures() {
	l.state.Features = append(l.kernel.Records(), l.source.Feature(), l.routes.Feature())
}

// wantedSource is what the source repair is to bring about. The own addresses are those of the last reconciliation.
func (l *Loader) wantedSource() sourcerepair.Want {
	return sourcerepair.Want{Config: l.config, Enforces: len(l.enforced()) > 0, Own: l.ownAddresses, Datapath: l.datapath}
}

// noteSource makes what the source repair cannot do a problem.
func (l *Loader) noteSource(err error) {
	l.problems.replace(scopeSource, slog.LevelWarn, messages([]error{err}))
	l.describeFeatures()
}

// watchSource subscribes to questions that wildcard sockets are asked.
func (l *Loader) watchSource() (err error) {
	l.asked, l.stopAsked, err = source.Watch(l.datapath.RepairWanted)
	if err != nil {
		return err
	}
	l.tx.OnAbort(func() error { l.stopAsked(); return nil })
	return nil
}

// socketAsked has the programs attached at once: whoever asked repeats the
// question soon.
func (r *runner) socketAsked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	waited, err := r.source.Asked(r.wantedSource())
	if !waited {
		return
	}
	r.noteSource(err)
	if err := r.writeSettings(); err != nil {
		r.log.Error("the source repair is not told to the programs", "error", err)
		r.changes.note(time.Now())
	}
	r.publish()
	r.saveOrLog()
}
