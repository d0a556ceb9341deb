// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/loader/detach"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// heirs are interfaces that have got the index of eth2, which we had changed, while
// nobody watched.
var heirs = map[string]func(b *bed, index int) (name string){
	"another name": func(b *bed, index int) string {
		b.ip("link del eth2\n")
		b.addVeth("eth3", index)
		return "eth3"
	},
	"another mac": func(b *bed, index int) string {
		b.ip("link del eth2\n")
		b.addVeth("eth2", index)
		return "eth2"
	},
	"another's mac": func(b *bed, index int) string {
		mac := b.linkOf("eth2").Attrs().HardwareAddr
		b.ip("link del eth2\n")
		b.addVeth("eth3", index)
		harness.Must(b.T, b.host.Netlink().LinkSetHardwareAddr(b.linkOf("eth3"), mac))
		return "eth3"
	},
	"eth2 in another namespace": func(b *bed, index int) string {
		other := elsewhere(b.T)
		harness.Must(b.T, b.host.Netlink().LinkSetNsPid(b.linkOf("eth2"), other))
		b.addVeth("eth3", index)
		return "eth3"
	},
}

// elsewhere returns a process in another network namespace.
func elsewhere(t *testing.T) (pid int) {
	t.Helper()
	c := harness.NewHost(t).Command(t.Context(), "cat")
	input, err := c.StdinPipe()
	harness.Must(t, err)
	harness.Must(t, c.Start())
	t.Cleanup(func() {
		input.Close()
		_ = c.Wait() // killed with the test's context
	})
	return c.Process.Pid
}

// addVeth adds an interface that nobody manages, as it has no address.
func (b *bed) addVeth(name string, index int) {
	b.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, index
	harness.Must(b.T, b.host.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far3"}))
}

func (b *bed) linkOf(name string) netlink.Link {
	b.Helper()
	link, err := b.host.Netlink().LinkByName(name)
	harness.Must(b.T, err)
	return link
}

// changed starts and ends a daemon that has made eth2's rp_filter loose, and added the
// clsact qdisc, and returns the index of eth2.
func (b *bed) changed(change func(*Options)) (index int) {
	b.Helper()
	b.addEth2(0)
	b.setRPFilter("eth2", 1)
	b.start(func(o *Options) {
		byClsact(o)
		if change != nil {
			change(o)
		}
	}).stop()
	if got := b.rpFilter("eth2"); got != "2" {
		b.Fatalf("rp_filter of eth2 is %s", got)
	}
	return b.linkOf("eth2").Attrs().Index
}

// takeAway are the ways to take everything away.
var takeAway = map[string]struct {
	change func(*Options)
	do     func(*bed)
}{
	"detach": {do: func(b *bed) { b.detach() }},
	"the end of a trial": {change: onTrial, do: func(b *bed) {
		b.inside(func() error {
			_, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
			return err
		})
	}},
}

// TestHeirIsLeftAlone: an index that has become another interface's is no reason to touch
// that one's sysctl, nor its qdisc, though they are what ours were.
func TestHeirIsLeftAlone(t *testing.T) {
	for what, inherit := range heirs {
		for how, away := range takeAway {
			t.Run(what+"/"+how, func(t *testing.T) {
				b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
				heir := inherit(b, b.changed(away.change))
				b.setRPFilter(heir, 2)
				b.tc("qdisc add dev " + heir + " clsact\n")
				changes, wrong := b.status().HostChanges, 0
				for _, c := range changes {
					if strings.Contains(c.Object, "eth2") || strings.Contains(c.Undo, heir) {
						wrong++
						t.Errorf("status has what is not going to be undone: %+v", c)
					}
				}
				away.do(b)
				got, kept := b.rpFilter(heir), slices.Contains(b.trace(), heir+" qdisc clsact")
				if got != "2" {
					t.Errorf("rp_filter of %s has become %s", heir, got)
				}
				if !kept {
					t.Errorf("%s has lost its clsact qdisc", heir)
				}
				t.Logf("%d changes of the host in the status, %d of eth2 or its heir %s; afterwards its rp_filter is %s, its qdisc there: %t",
					len(changes), wrong, heir, got, kept)
			})
		}
	}
}

// TestRenamedIsRestored: what was changed is put back under the name that the interface
// has got, also with another MAC, and its old name is another's.
func TestRenamedIsRestored(t *testing.T) {
	for how, away := range takeAway {
		t.Run(how, func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			b.changed(away.change)
			b.ip("link property add dev eth2 altname second\nlink set eth2 down\nlink set eth2 name eth3\n")
			harness.Must(t, b.host.Netlink().LinkSetHardwareAddr(b.linkOf("eth3"), net.HardwareAddr{2, 0, 0, 7, 7, 7}))
			b.addVeth("eth2", 0)
			b.setRPFilter("eth2", 2)
			away.do(b)
			for name, want := range map[string]string{"eth3": "1", "eth2": "2"} {
				if got := b.rpFilter(name); got != want {
					t.Errorf("rp_filter of %s is %s, want %s", name, got, want)
				}
			}
			left := slices.Contains(b.trace(), "eth3 qdisc clsact")
			if left {
				t.Error("the clsact qdisc of eth3 is left")
			}
			t.Logf("rp_filter afterwards: %s of what is eth3 now, %s of another eth2; our clsact qdisc left: %t",
				b.rpFilter("eth3"), b.rpFilter("eth2"), left)
		})
	}
}

// TestHeirOfARefusedInterface: an interface that took no programs leaves no trace by which
// the next daemon could tell that it went, but for the kernel's word.
func TestHeirOfARefusedInterface(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.addEth2(0)
	b.setRPFilter("eth2", 1)
	b.tc("qdisc add dev eth2 ingress\n") // in the place of clsact
	b.start(byClsact).stop()
	if i := b.status().of("eth2"); i == nil || i.Attached || b.rpFilter("eth2") != "2" {
		t.Fatalf("eth2: %+v, rp_filter %s", i, b.rpFilter("eth2"))
	}
	index, before := b.linkOf("eth2").Attrs().Index, b.idsOf("eth2")
	b.ip("link del eth2\n")
	b.addEth2(index)
	b.setRPFilter("eth2", 2)
	b.start(byClsact).stop()
	after := b.idsOf("eth2")
	if len(after) != len(before)+1 {
		t.Errorf("ids of eth2: %v, before %v", after, before)
	}
	b.detach()
	got := b.rpFilter("eth2")
	if got != "2" {
		t.Errorf("rp_filter of another eth2 has become %s", got)
	}
	t.Logf("ids of eth2 %v, with another one %v, whose rp_filter is %s after detach", before, after, got)
}

// TestStatusNamesTheRenamed: what detach is going to undo stands in the status by the name
// that the interface has now, whether or not a daemon has seen that.
func TestStatusNamesTheRenamed(t *testing.T) {
	for _, daemon := range []bool{true, false} {
		t.Run(fmt.Sprintf("daemon: %t", daemon), func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			b.addEth2(0)
			b.setRPFilter("eth2", 1)
			r := b.start(byClsact)
			b.repairByDoctor("net.ipv4.conf.eth2.arp_ignore", "1")
			if !daemon {
				r.stop()
			}
			before := b.status().HostChanges
			b.ip("link property add dev eth2 altname second\nlink set eth2 name eth3\n")
			want := make([]status.HostChange, len(before))
			for i, c := range before {
				c.Object, c.Undo = strings.ReplaceAll(c.Object, "eth2", "eth3"), strings.ReplaceAll(c.Undo, "eth2", "eth3")
				want[i] = c
			}
			after := b.status().HostChanges
			if diff := cmp.Diff(want, after); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if cmp.Equal(want, before) {
				t.Errorf("nothing of eth2 among %+v", before)
			}
			if daemon {
				eventually(t, "the journal has the name", func() bool { return len(b.idsOf("eth3")) > 0 })
				r.stop()
			}
			undone := 0
			for _, c := range want {
				if command, is := strings.CutPrefix(c.Undo, "sysctl -w "); is {
					b.run("sysctl", "-qw", command)
					undone++
				}
			}
			if b.rpFilter("eth3") != "1" {
				t.Errorf("rp_filter of eth3 is %s after %q", b.rpFilter("eth3"), want)
			}
			t.Logf("of %d changes in the status %d named eth2, then %d name eth3 and %d eth2; %d sysctls undone by it, rp_filter is %s",
				len(after), naming(before, "eth2"), naming(after, "eth3"), naming(after, "eth2"), undone, b.rpFilter("eth3"))
		})
	}
}

// naming counts the changes that name an interface.
func naming(changes []status.HostChange, name string) (count int) {
	for _, c := range changes {
		if strings.Contains(c.Object+c.Undo, name) {
			count++
		}
	}
	return count
}

// repairByDoctor makes a change that `replypath doctor --fix` could have made.
func (b *bed) repairByDoctor(key, value string) {
	b.Helper()
	b.inside(func() error {
		change, err := hostsettings.Plan(key, value)
		if err != nil {
			return err
		}
		journal, err := pins.OwnRepairs(b.dir)
		if err != nil {
			return err
		}
		link := b.linkOf(hostsettings.InterfaceOf(key)).Attrs()
		record := pins.RepairRecord{Name: link.Name, MAC: link.HardwareAddr.String(), SysctlRecord: pins.SysctlRecord{
			Interface: change.Interface, Key: key, Before: change.Before, After: change.After,
		}}
		namespace, err := pins.CurrentNamespace()
		harness.Must(b.T, err)
		repairs := &pins.Repairs{Namespace: namespace, Sysctls: []pins.RepairRecord{record}}
		return errors.Join(journal.Write(repairs), change.Make(), journal.Close())
	})
}

// TestRenamedIsWatched: a sysctl that somebody sets back on an interface that has another
// name by then is changed again, as soon as on any other.
func TestRenamedIsWatched(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil)
	b.ip("link property add dev eth0 altname first\nlink set eth0 name nic0\n")
	eventually(t, "the name is seen", func() bool { return len(b.idsOf("nic0")) > 0 })
	const file = "net/ipv6/conf/nic0/router_probe_interval" // of which the kernel tells nobody
	harness.Must(t, b.host.SetSysctl(file, "60"))
	began := time.Now()
	eventually(t, "it is changed again", func() bool {
		value, err := b.host.Sysctl(file)
		harness.Must(t, err)
		return value == "1"
	})
	took := time.Since(began)
	eventually(t, "the repair is written down", func() bool { return b.repairs(repairSysctl) == 1 })
	t.Logf("changed again after %s, %d repairs counted", took.Round(time.Millisecond), b.repairs(repairSysctl))
}

// TestRenamedOnTrial: the datapath of before finds what it has changed by the name that an
// interface has got meanwhile.
func TestRenamedOnTrial(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil).stop()
	r := b.start(onTrial)
	b.ip("link property add dev eth0 altname first\nlink set eth0 name nic0\n")
	eventually(t, "the name is seen", func() bool { return len(b.idsOf("nic0")) > 0 })
	r.stop()
	takeAway["the end of a trial"].do(b)
	found, stale := 0, 0
	for _, s := range b.journal().Sysctls {
		switch hostsettings.InterfaceOf(s.Key) {
		case "eth0":
			stale++
			t.Errorf("%s stands in the journal", s.Key)
		case "nic0":
			found++
		}
	}
	if found == 0 {
		t.Errorf("nothing of nic0 in %+v", b.journal().Sysctls)
	}
	t.Logf("%d sysctls stand in the journal by the name of now, %d by that of before", found, stale)
}
