// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"replypath/loader/config"
)

// parsed is the value of a flag that is checked when it is set, so that a bad
// one is refused before anything is done.
type parsed[T any] struct {
	target *T
	parse  func(string) (T, error)
	kind   string // shown in the help
	text   string
}

// Value returns a flag's value, which parse reads into target. The help shows kind; text is how the present value is
// written.
func Value[T any](target *T, kind, text string, parse func(string) (T, error)) pflag.Value {
	return &parsed[T]{target: target, parse: parse, kind: kind, text: text}
}

func (p *parsed[T]) Set(text string) error {
	value, err := p.parse(text)
	if err != nil {
		return err
	}
	*p.target, p.text = value, text
	return nil
}

func (p *parsed[T]) String() string { return p.text }
func (p *parsed[T]) Type() string   { return p.kind }

// AddProtocol gives a command the flag --protocol.
func AddProtocol(c *cobra.Command, target **uint8) {
	value := Value(target, "protocol", "", protocol)
	c.Flags().Var(value, "protocol", "only this protocol: tcp, udp, icmp, icmpv6, sctp or a number")
	Complete(c, "protocol", protocolNames)
}

// AddInterface gives a command the flag --interface.
func AddInterface(c *cobra.Command, target *string, usage string) {
	c.Flags().Var(Value(target, "name", "", interfaceName), "interface", usage)
	Complete(c, "interface", InterfaceNames)
}

// Complete registers what the shell offers for a flag's value.
func Complete(c *cobra.Command, flag string, words func() []string) {
	must(c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words(), cobra.ShellCompDirectiveNoFileComp
	}))
}

// must is for what fails only for a flag that there is not.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// AddChoice gives a command a flag that takes one of a few words; the present value of target is the default.
func AddChoice[T ~string](c *cobra.Command, target *T, flag, shorthand, kind, usage string, words ...T) {
	var texts []string
	for _, word := range words {
		texts = append(texts, string(word))
	}
	choose := func(text string) (T, error) {
		if slices.Contains(texts, text) {
			return T(text), nil
		}
		return "", fmt.Errorf("%q is not one of %s", text, strings.Join(texts, ", "))
	}
	c.Flags().VarP(Value(target, kind, string(*target), choose), flag, shorthand, usage)
	Complete(c, flag, func() []string { return texts })
}

// InterfaceNames are those of this network namespace; none where they cannot be
// listed.
func InterfaceNames() []string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range interfaces {
		if config.CheckInterfaceName(i.Name) == nil {
			names = append(names, i.Name)
		}
	}
	return names
}

// OwnAddresses are those that a peer can ask; none where they cannot be listed.
func OwnAddresses() []string {
	networks, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addresses []string
	for _, n := range networks {
		if n, ok := n.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			addresses = append(addresses, n.IP.String())
		}
	}
	return addresses
}

func protocolNames() []string {
	var names []string
	for _, number := range config.Default().Protocols {
		names = append(names, config.ProtocolName(number))
	}
	return names
}
