// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"replypath/cmd/replypath/cli"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// jsonKeys describe what commands write with -o json. The manual pages have them below the help text.
var jsonKeys = map[string]string{
	"replypath check": `With -o json it is one object:
  file          the path of the file
  present       whether the file exists; if not, the defaults are valid
  valid         whether the exit code is 0
  error         the first error; null if there is none
  errors[]      all errors
  warnings[]    what may be wrong
  interfaces[]  name, mode, host_model, next_hop
  unmanaged[]   name, reason
  caught[]      names
  missing[]     configured names that no interface has`,
	"replypath doctor": `With -o json it is an array. Each object has:
  check      what was examined
  severity   error: replies, or what this host opens, fail now; warning: they will, or go
             right by luck; note: worth knowing; ok
  interface  null: the host as a whole
  subject    what it is about: an interface, an address, a table
  found      the finding in one line
  evidence   count, since, until; null where nothing was counted
  anchor     where the guide says more
  fix        what repairs it and takes no traffic away; null if nothing does
  inspect    a command that only reads; null if there is none
  owner      who made it, by the protocol of a route or rule; null if unknown`,
	"replypath explain": `With -o json it is one object; what does not apply is null:
  protocol   tcp, udp, icmp, icmpv6, sctp or a number
  family     ipv4, ipv6
  peer       the packet's destination
  peer_port  its port; of a ping the identifier
  self       the packet's source
  self_port  its port
  kernel     interface, gateway, next_hop_mac, table; error: why it builds no packet
  replypath  interface, next_hop_mac, gateway
  leaves_by  the interface that the packet leaves by
  verdict    one of the above
  reason     why; one of the above
  detail     verdict and reason in a sentence
  seen       when a packet was last seen leaving so
  flow       the entry that decides, as replypath flows shows it
  others[]   the other flows between the addresses, each explained like this one
  matches    how many flows there are`,
	"replypath flows": `With -o json it is an array. With --follow it is one object a line. Each object has:
  event              with --follow: new, moved, ended
  protocol           tcp, udp, icmp, icmpv6, sctp or a number
  family             ipv4, ipv6
  peer               the address of the peer
  peer_port          its port; of a ping the identifier
  self               the own address
  self_port          the own port
  interface          the interface that the flow arrives by; null once it is gone
  next_hop_mac       the MAC that replies go to; null if they go as routed
  gateway            the gateway that has it; null if it is the inbound MAC
  verdict            as handshakes taught: last-hop: replies go back to the MAC that sent the
                     request; direct-return: as routed; null: by the rule of next_hop
  state              half-open, established, connectionless; with --originated originated
  age_seconds        time since the flow began
  idle_seconds       time since its last inbound frame
  corrected_packets  packets that replypath corrected
  asymmetric         whether the kernel chose another interface or next hop at least once
  closing            whether it is a TCP connection after FIN or RST
  bytes              bytes of TCP payload that this host sent; null if not known, and with
                     --follow
  kernel_interface   of an asymmetric flow: the interface that the kernel chooses now, or
                     none. It is null if it is not known: of forwarded flows, and if it
                     depends on a mark that no socket has. It is also null after 4096
                     questions to the kernel

With --originated each has these keys besides:
  kernel_interface  the interface that the kernel chose; null once it is gone
  outcome           moved or routed`,
	"replypath flows flush": `With -o json it is one object:
  flushed  how many flows were forgotten
  senders  how many senders`,
	"replypath mode": `With -o json it is one object:
  mode  enforce or observe`,
	"replypath plan": `With -o json it is one object:
  verdict        ready, blocked or nothing-to-do
  summary        the verdict in one line
  made_at        when it was made
  watched_since  when watching began; null: only this moment was looked at
  watched_seconds  for how long it watched
  would_move[]   replies: self, self_port, protocol, peer (a /24 or /64),
                 from_interface (none: no route; refused), to_interface, flows, packets, bytes
                 (null: not counted), first_seen, last_seen
  originated[]   what this host opened: the same, peer_port, remedy; related: true where its
                 peer was heard at to_interface before
  rules[]        rule, kind (rule, mark, table, route), verdict, reason, owner,
                 connections, peers, restore (what puts back a rule that is not
                 needed; else null)
  host_changes[] object, before, after; the routes for bound sockets are
                 known once a daemon observes
  blockers[]     as doctor[]
  mended[]       what enforcing is for, as doctor[]`,
	"replypath status": `With -o json it is one object; what is not known is null:
  summary         the first line
  mode            enforce or observe; null where nothing is pinned
  daemon          running, pid, version
  trial_until     when replypath try takes everything back; null when that is over
  config          path, loaded_at; error: why a later file was refused
  interfaces[]    the managed and the caught interfaces, see below
  unmanaged[]     name, reason
  addresses[]     network: served although no interface has it; source: configuration,
                  firewall or route
  flows           count, capacity
  senders[]       by which ways replies arrive, as handshakes taught: see below; 1000 at most
  sender_count    how many senders there are
  features[]      name, available, effect
  host_changes[]  object, before, after; undo: the command that restores it
  would_change[]  object, before, after: what enforcing would change
  errors[]        what the daemon tries again, and standing warnings; when it ended, if it
                  does not run
  health          state: ok, degraded or failed; findings[]: as doctor has them
  counted         packets of replies that the kernel would send another way, see below
  pin_dir         the directory of the pins

Each of interfaces[] has:
  name        the interface
  index       its number
  role        records: it is managed; catches: it is not, and replies that leave by it are caught
  up          whether it is up
  attached    whether programs are attached
  mechanism   tcx or clsact
  mode        the mode in force
  host_model  weak or strong
  next_hop    as configured
  gateways[]  address, mac, state
  rp_filter   the effective value of IPv4: 0, 1 or 2
  flows       how many flows arrive by it
  recent      its requests of the last 10 minutes, see below

Each recent has:
  right       how many were answered rightly
  astray      of how many a reply left by another way
  lost        of how many the reply was moved, and never seen leaving
  unanswered  of how many no reply was seen leaving for 3 seconds
  first_at    when the first of them began; null if there are none
  last_at     when the last of them was heard

Each of senders[] has:
  interface  the interface
  mac        the MAC that requests come from; null without Ethernet
  self       the own address
  way        rule: by the rule of next_hop; last-hop: back to mac; direct-return: as routed
  settled    whether the rule's way is not tried once more
  learnt_at  when a handshake taught it
  heard_at   when a flow began last, to a minute

counted has:
  since          when counting began; null if that is not known
  corrected      packets that left by the interface of their flow
  would_correct  packets that mode observe left alone
  lost           packets that were moved, and never seen leaving
  uncorrected    the others by reason, as in the metrics`,
	"replypath top": `With -o json it is one object a line:
  time           when it was read
  seconds        time since the object before; rates are over this time
  mode           as replypath status shows it
  daemon         as replypath status shows it
  interfaces[]   the managed interfaces, see below
  total          corrected, asymmetric_packets_per_second,
                 uncorrected_packets_per_second
  flow_tables[]  table, flows, lasting, capacity
  flows[]        as replypath flows shows them, with corrected_packets_per_second

Each of interfaces[] has:
  name                            the interface
  index                           its number
  up                              whether it is up
  attached                        whether programs are attached
  mechanism                       tcx or clsact
  mode                            its mode
  corrected_to                    packets_per_second, bytes_per_second
  corrected_from                  packets_per_second, bytes_per_second
  asymmetric_packets_per_second   a number
  uncorrected_packets_per_second  a number for each reason`,
	"replypath trace": `With -o json it is one object a line; what does not apply is null:
  time          when it passed
  direction     in or out
  protocol      tcp, udp, icmp, icmpv6, sctp or a number
  family        ipv4, ipv6
  peer          the address of the peer
  peer_port     its port; of a ping the identifier
  self          the own address
  self_port     the own port
  tcp_flags     the flags of TCP
  form          echo-request, echo-reply, icmp-error or fragment
  length        bytes of the frame
  packets       how many it is on the wire
  interface_in  the interface that it arrived by, or its flow
  source_mac    the MAC that an inbound packet came from
  kernel        the kernel's choice: interface, next_hop_mac
  out           where it leaves: interface, next_hop_mac
  verdict       one of the above
  reason        why
  seen_leaving  whether it was seen at the interface that it leaves by
  lost          how many events were lost before it`,
	"replypath version": `With -o json it is one object:
  version  the version
  commit   the commit that it was built from; null if it is not known
  go       the version of Go
  os       the operating system
  arch     the architecture`,
}

// TestJSONKeys: each command with -o has its keys described, all that it writes for the fake host.
func TestJSONKeys(t *testing.T) {
	eachCommand(newRoot(&cli.App{Stdout: io.Discard, Stderr: io.Discard}, fakeHost()), func(c *cobra.Command) {
		if _, is := jsonKeys[c.CommandPath()]; is != (c.LocalFlags().Lookup("output") != nil) {
			t.Errorf("%s: are its keys described? %v", c.CommandPath(), is)
		}
	})
	const ends = " --peer 10.1.0.100 --self 10.4.0.100"
	for command, more := range map[string]string{
		"check": "", "doctor": "", "explain": ends, "flows": "", "flows flush": "", "mode": "", "plan": "", "status": "",
		"top": " --interval 100ms --count 1", "trace": " --count 1", "version": "",
	} {
		var out bytes.Buffer
		run(t.Context(), strings.Fields(command+more+" -o json --pin-dir "+fakehost.WatchedDir), &out, io.Discard, fakeHost())
		described := jsonKeys["replypath "+command]
		for _, other := range regexp.MustCompile(`as (?:replypath )?(status|flows|doctor)\b`).FindAllStringSubmatch(described, -1) {
			described += jsonKeys["replypath "+other[1]]
		}
		decoder, documents := json.NewDecoder(&out), 0
		for ; ; documents++ {
			var document any
			if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
				break
			} else {
				await.Must(t, err)
			}
			wantDescribed(t, command, described, document)
		}
		if documents == 0 {
			t.Errorf("%s writes nothing", command)
		}
	}
}

// wantDescribed wants each key of a document in a text, except reasons.
func wantDescribed(t *testing.T, command, text string, document any) {
	t.Helper()
	switch document := document.(type) {
	case []any:
		for _, item := range document {
			wantDescribed(t, command, text, item)
		}
	case map[string]any:
		for key, value := range document {
			if !regexp.MustCompile(`\b` + key + `\b`).MatchString(text) {
				t.Errorf("the key %s of %s is not described", key, command)
			}
			if !strings.HasPrefix(key, "uncorrected") {
				wantDescribed(t, command, text, value)
			}
		}
	}
}
