package loader

import (
	"replypath/loader/discover"
)

// scopeAstray is that of the default routes which lead by an interface that is not managed.
const scopeAstray = "astray"

// astray says by which interfaces without replypath the host answers.
func (l *Loader) astray(found *discover.Result) ([]string, error) {
	list, err := found.Astray(l.netlink)
	if err != nil {
		return nil, err
	}
	var lines []string
	for n := range list {
		lines = append(lines, list[n].String())
	}
	return lines, nil
}
