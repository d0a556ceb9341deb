// SPDX-License-Identifier: Apache-2.0

// Package problems keeps what cannot be done and is tried again.
package problems

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// List holds the problems that stand. Each is logged when it comes and when it goes, not at every attempt.
type List struct {
	log      *slog.Logger
	standing map[string][]string // by scope
}

// New returns an empty list.
func New(log *slog.Logger) *List { return &List{log, make(map[string][]string)} }

// Replace makes messages the problems of a scope.
func (p *List) Replace(scope string, level slog.Level, messages []string) {
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
	p.Keep(scope, messages)
}

// Keep is Replace without a word: whoever found the problem logs it.
func (p *List) Keep(scope string, messages []string) {
	if len(messages) == 0 {
		delete(p.standing, scope)
		return
	}
	p.standing[scope] = messages
}

// All lists the problems for the status.
func (p *List) All() []string {
	all := []string{}
	for _, scope := range slices.Sorted(maps.Keys(p.standing)) {
		all = append(all, p.standing[scope]...)
	}
	return all
}

// OneLine puts joined errors behind each other.
func OneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Messages turns errors into lines, one for each of those that were joined and
// without repetitions.
func Messages(errs ...error) []string {
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

// Of lists the problems of a scope.
func (p *List) Of(scope string) []string { return p.standing[scope] }
