// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"replypath/loader/config"
)

// yamlManual returns the manual page of the configuration file in Markdown, from its NAME on.
func yamlManual() string {
	var b strings.Builder
	b.WriteString(yamlHead)
	for _, key := range yamlReference() {
		b.WriteString(markdown(&key))
	}
	fmt.Fprintf(&b, "# EXAMPLE\n\n")
	for line := range strings.Lines(config.Example) {
		b.WriteString("    " + line)
	}
	b.WriteString(yamlTail)
	return b.String()
}

const yamlHead = `# NAME

replypath.yaml - configuration of replypath

# SYNOPSIS

` + config.DefaultPath + `

# DESCRIPTION

The file is YAML. Every key is optional, and so is the file: without it the
defaults hold, which do the right thing on a host with two interfaces. A key
without a value counts as absent. An unknown key, a repeated key and a value that
is not allowed are errors. The message names their line.

**replypath check** shows whether a file is valid. A running **replypath run**
reads it again on SIGHUP. An invalid file is logged, and the configuration in
force stays. Flags of **replypath run** win over the file.

Names of interfaces may be alternative names and globs. In a glob, * matches any
characters, ? matches one, and [a-c] matches one of several.

# KEYS

`

const yamlTail = `
# SEE ALSO

**replypath-run(8)**, **replypath-check(8)**, **replypath-status(8)**
`

// markdown is the key's entry in the manual page.
func markdown(k *yamlKey) string {
	var facts []string
	if k.Values != "" {
		facts = append(facts, k.Values)
	}
	if k.Default != "" {
		facts = append(facts, "default: "+escapeMarkdown(k.Default))
	}
	return fmt.Sprintf("**%s**\n: %s\n\n    %s\n\n", escapeMarkdown(k.Path), strings.Join(facts, "; "), strings.ReplaceAll(k.Text, "\n\n", "\n\n    "))
}

// escapeMarkdown keeps globs and brackets from being taken for emphasis and links. *key* on its own is meant as
// emphasis.
func escapeMarkdown(text string) string {
	replacer := strings.NewReplacer("[", `\[`, "]", `\]`, `*"`, `\*"`)
	return replacer.Replace(text)
}
