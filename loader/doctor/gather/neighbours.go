package gather

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/hostsettings"
)

// neighbours reads the neighbour tables.
func neighbours(handle *netlink.Handle) ([]snapshot.Neighbour, error) {
	list, err := dump.Neighbours(handle)
	if err != nil {
		return nil, err
	}
	var found []snapshot.Neighbour
	for i := range list {
		n := &list[i]
		found = append(found, snapshot.Neighbour{
			Interface: n.LinkIndex, Address: dump.Address(n.IP), MAC: n.HardwareAddr,
			// neigh_alloc() of net/core/neighbour.c exempts these.
			Counted: n.State&netlink.NUD_PERMANENT == 0 && n.Flags&netlink.NTF_EXT_LEARNED == 0,
		})
	}
	return found, nil
}

// neighTables reads the limits of the neighbour tables.
func neighTables() (map[int]snapshot.NeighTable, error) {
	tables := make(map[int]snapshot.NeighTable)
	for family, statistics := range map[int]string{unix.AF_INET: "arp_cache", unix.AF_INET6: "ndisc_cache"} {
		prefix := "net." + snapshot.FamilyName(family) + ".neigh.default.gc_thresh"
		thresh2, err2 := hostsettings.ReadNumber(prefix + "2")
		thresh3, err3 := hostsettings.ReadNumber(prefix + "3")
		if errors.Join(err2, err3) != nil {
			continue // not in this namespace
		}
		tables[family] = snapshot.NeighTable{Thresh2: thresh2, Thresh3: thresh3, Fulls: tableFulls(statistics)}
	}
	return tables, nil
}

// tableFulls sums the column table_fulls of /proc/net/stat/arp_cache, of which
// there is a line for each processor, in hexadecimal; 0 where it is not shown.
func tableFulls(name string) uint64 {
	text, err := os.ReadFile("/proc/thread-self/net/stat/" + name)
	if err != nil {
		return 0
	}
	return sumColumn(string(text), "table_fulls")
}

func sumColumn(text, column string) uint64 {
	lines := strings.Split(text, "\n")
	place := -1
	for n, word := range strings.Fields(lines[0]) {
		if word == column {
			place = n
		}
	}
	var sum uint64
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		if place < 0 || place >= len(words) {
			continue
		}
		value, err := strconv.ParseUint(words[place], 16, 64)
		if err == nil {
			sum += value
		}
	}
	return sum
}

// settings reads the sysctls of the managed interfaces, and of "all".
func settings(host *snapshot.Links) (snapshot.Settings, error) {
	found := make(snapshot.Settings)
	names := []string{"all"}
	for _, i := range append(host.Carriers(), host.Interfaces...) {
		names = append(names, i.Name)
	}
	for family, leaves := range snapshot.Leaves {
		for _, name := range names {
			for _, leaf := range leaves {
				key := hostsettings.Key(family, name, leaf)
				value, err := hostsettings.ReadNumber(key)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return nil, err
				}
				found[key] = value
			}
		}
	}
	return found, nil
}
