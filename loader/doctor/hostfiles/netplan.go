package hostfiles

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"replypath/loader/doctor/snapshot"
)

// parseNetplan reads the entries of every routing-policy in a netplan file. One
// that cannot be read has none.
func parseNetplan(file, text string) []snapshot.RuleLine {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil
	}
	var found []snapshot.RuleLine
	walkPolicies(&document, func(entry *yaml.Node) {
		l := snapshot.RuleLine{File: file, Line: entry.Line}
		var words []string
		for n := 0; n+1 < len(entry.Content); n += 2 {
			key, value := entry.Content[n].Value, entry.Content[n+1].Value
			words = append(words, key+": "+value)
			switch key {
			case "from":
				l.Src = parsePrefix(value)
			case "mark":
				l.Mark = value
			case "table":
				l.Table = value
			}
		}
		l.Text = "{" + strings.Join(words, ", ") + "}"
		found = append(found, l)
	})
	return found
}

// walkPolicies visits the entries of every routing-policy, wherever it is.
func walkPolicies(n *yaml.Node, visit func(*yaml.Node)) {
	if n.Kind == yaml.MappingNode {
		for k := 0; k+1 < len(n.Content); k += 2 {
			if n.Content[k].Value == "routing-policy" && n.Content[k+1].Kind == yaml.SequenceNode {
				for _, entry := range n.Content[k+1].Content {
					visit(entry)
				}
			}
		}
	}
	for _, child := range n.Content {
		walkPolicies(child, visit)
	}
}
