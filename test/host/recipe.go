// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// recipes is where the pages are, seen from a test package.
const recipes = "../../docs/guide/recipes"

// Recipe is a page of docs/guide/recipes. What it tells the reader to type, in fenced blocks, is what tests run: "sh"
// blocks are commands, "nft" blocks are read by nft, "yaml" blocks are configurations.
type Recipe struct {
	t      testing.TB
	name   string
	blocks []Block
}

// ReadRecipe reads a page by its name without ".md".
func ReadRecipe(t testing.TB, name string) *Recipe {
	t.Helper()
	text := await.Must1[[]byte](t)(os.ReadFile(filepath.Join(recipes, name+".md")))
	return &Recipe{t: t, name: name, blocks: Blocks(string(text))}
}

// Run runs the commands and nft rules of a section on a host, in their order.
func (r *Recipe) Run(host *topology.Host, section string) {
	r.t.Helper()
	r.run(host, section, nil)
}

// RunWith is Run on the host of a product, which the commands find as replypath.
func (r *Recipe) RunWith(p *product.Product, section string) {
	r.t.Helper()
	dir := r.t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s --pin-dir %s \"$@\"\n", product.Binary(), p.PinDir)
	await.Must(r.t, os.WriteFile(filepath.Join(dir, "replypath"), []byte(script), 0o755))
	r.run(p.Host, section, append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH")))
}

// Watch starts the commands of a section, which end with a tcpdump, and returns once that listens. What it returns
// waits until tcpdump has seen its packet.
func (r *Recipe) Watch(host *topology.Host, section string) (seen func()) {
	r.t.Helper()
	c := host.Command(await.Within(r.t, product.CommandTime), "sh", "-ex")
	c.Stdin = strings.NewReader(r.Text(section, "sh"))
	errs := await.Must1[io.ReadCloser](r.t)(c.StderrPipe())
	await.Must(r.t, c.Start())
	lines := bufio.NewScanner(errs)
	var said []string
	for listens := false; !listens; listens = strings.HasPrefix(lines.Text(), "listening on ") {
		if !lines.Scan() {
			r.t.Fatalf("%s, section %q: no tcpdump listens: %v\n%s", r.name, section, c.Wait(), strings.Join(said, "\n"))
		}
		said = append(said, lines.Text())
	}
	return func() {
		r.t.Helper()
		for lines.Scan() {
			said = append(said, lines.Text())
		}
		if err := c.Wait(); err != nil {
			r.t.Fatalf("%s, section %q: %v\n%s", r.name, section, err, strings.Join(said, "\n"))
		}
	}
}

func (r *Recipe) run(host *topology.Host, section string, environment []string) {
	r.t.Helper()
	interpreters := map[string][]string{"sh": {"sh", "-ex"}, "nft": {"nft", "-f", "-"}}
	run := 0
	for _, b := range r.blocks {
		interpreter := interpreters[b.Language]
		if b.Section != section || interpreter == nil {
			continue
		}
		run++
		c := host.Command(await.Within(r.t, product.CommandTime), interpreter[0], interpreter[1:]...)
		c.Env = environment
		c.Stdin = strings.NewReader(b.Text)
		if output, err := c.CombinedOutput(); err != nil {
			r.t.Fatalf("%s, section %q: %v\n%s\n%s", r.name, section, err, b.Text, output)
		}
	}
	if run == 0 {
		r.t.Fatalf("%s has no commands in section %q", r.name, section)
	}
}

// Text returns what a section shows in a language, such as a file of another program.
func (r *Recipe) Text(section, language string) string {
	r.t.Helper()
	for _, b := range r.blocks {
		if b.Section == section && b.Language == language {
			return b.Text
		}
	}
	r.t.Fatalf("%s has no %s in section %q", r.name, language, section)
	return ""
}

// File returns what a section shows of a file, whose name stands in the first line.
func (r *Recipe) File(section, name string) string {
	r.t.Helper()
	for _, b := range r.blocks {
		if b.Section == section && strings.HasPrefix(b.Text, "# "+name+":") {
			return b.Text
		}
	}
	r.t.Fatalf("%s has no %s in section %q", r.name, name, section)
	return ""
}

// Config writes the configuration that a section shows to a file, and returns its path.
func (r *Recipe) Config(section string) string {
	r.t.Helper()
	return product.WriteConfig(r.t, r.Text(section, "yaml"))
}
