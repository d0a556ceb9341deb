package loader

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// Scopes of problems. SetError has those of its callers.
const (
	scopeHost      = "host"      // what went wrong in the last reconciliation
	scopeWarning   = "warning"   // what the configuration asks for in vain so far
	scopeNamespace = "namespace" // why there was no reconciliation
)

// problems are what cannot be done and is tried again. Each is logged when it
// comes and when it goes, not at every attempt.
type problems struct {
	log      *slog.Logger
	standing map[string][]string // by scope
}

// replace makes messages the problems of a scope.
func (p *problems) replace(scope string, level slog.Level, messages []string) {
	before := p.standing[scope]
	for _, message := range messages {
		if !slices.Contains(before, message) {
			p.log.Log(context.Background(), level, message)
		}
	}
	for _, message := range before {
		if !slices.Contains(messages, message) {
			p.log.Info("no longer: " + message)
		}
	}
	p.keep(scope, messages)
}

// keep is replace without a word: whoever found the problem logs it.
func (p *problems) keep(scope string, messages []string) {
	if len(messages) == 0 {
		delete(p.standing, scope)
		return
	}
	p.standing[scope] = messages
}

// all lists the problems for the status.
func (p *problems) all() []string {
	all := []string{}
	for _, scope := range slices.Sorted(maps.Keys(p.standing)) {
		all = append(all, p.standing[scope]...)
	}
	return all
}

// messages turns errors into lines, one for each of those that were joined and
// without repetitions.
func messages(errs []error) []string {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	var list []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(list, line) {
			list = append(list, line)
		}
	}
	return list
}
