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
without a value counts as absent. An unknown key, a key that stands twice and a
value that is not allowed are errors, which are told with their line.

**replypath check** tells whether a file is valid. A running **replypath run**
reads it again on SIGHUP; what is wrong with it is logged, and the configuration
in force stays. Flags of **replypath run** win over the file.

Names of interfaces may be alternative names and globs, in which * stands for any
characters, ? for one and [a-c] for one of several.

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
	return fmt.Sprintf("**%s**\n: %s\n\n    %s\n\n", escapeMarkdown(k.Path), strings.Join(facts, "; "), k.Text)
}

// escapeMarkdown keeps globs and brackets from being taken for emphasis and
// links. *key* on its own is meant as emphasis.
func escapeMarkdown(text string) string {
	replacer := strings.NewReplacer("[", `\[`, "]", `\]`, `*"`, `\*"`)
	return replacer.Replace(text)
}
