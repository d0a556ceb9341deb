package main

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

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

// newParsed returns a flag value; text is how its present value is written.
func newParsed[T any](target *T, kind, text string, parse func(string) (T, error)) *parsed[T] {
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

// oneOf reads one of a few words.
func oneOf(words ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if slices.Contains(words, text) {
			return text, nil
		}
		return "", fmt.Errorf("%q is not one of %s", text, strings.Join(words, ", "))
	}
}

// positive reads a whole number of at least 1.
func positive(text string) (int, error) {
	number, err := strconv.ParseUint(text, 10, 31)
	if err != nil || number == 0 {
		return 0, fmt.Errorf("%q is not a whole number from 1", text)
	}
	return int(number), nil
}

func interfaceName(text string) (string, error) { return text, config.CheckInterfaceName(text) }

// complete registers what the shell offers for a flag's value.
func complete(c *cobra.Command, flag string, words func() []string) {
	err := c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // there is no such flag
	}
}

// interfaceNames are those of this network namespace; none where they cannot be
// listed.
func interfaceNames() []string {
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

// ownAddresses are those that a peer can ask; none where they cannot be listed.
func ownAddresses() []string {
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
