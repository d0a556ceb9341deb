// SPDX-License-Identifier: Apache-2.0

// Package report turns what the benchmark has measured into medians, ratios, tables and a page.
package report

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
)

// Value is what was measured in one round, or in one turn of it.
type Value struct {
	Round int     `json:"round"`
	Turn  int     `json:"turn,omitempty"`
	Value float64 `json:"value"`
}

// Median returns the middle value, the mean of the two in the middle of an even number, and 0 for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Ratios divides the values by those of the same turn, and returns the median of each round. Turns
// that lack either are left out.
func Ratios(values, base []Value) []float64 {
	type turn struct{ round, turn int }
	byTurn := make(map[turn]float64)
	for _, b := range base {
		byTurn[turn{b.Round, b.Turn}] = b.Value
	}
	var ratios []Value
	for _, v := range values {
		if b := byTurn[turn{v.Round, v.Turn}]; b != 0 {
			ratios = append(ratios, Value{Round: v.Round, Value: v.Value / b})
		}
	}
	return perRound(ratios)
}

// perRound returns the median of each round's turns, in the order of the rounds.
func perRound(values []Value) []float64 {
	turns := make(map[int][]float64)
	for _, v := range values {
		turns[v.Round] = append(turns[v.Round], v.Value)
	}
	var medians []float64
	for _, round := range slices.Sorted(maps.Keys(turns)) {
		medians = append(medians, Median(turns[round]))
	}
	return medians
}

const (
	resamples = 2000
	// certainty is that of the noise.
	certainty = 0.95
)

// Noise returns how far from 1 the median of so many rounds' ratios comes to lie by
// chance: these ratios are those of one contender to itself (an A/A run).
func Noise(same []float64, rounds int) float64 { return spread(same, 1, rounds) }

// Uncertainty returns how far off the median of ratios may be by their own scatter, as a part of it.
func Uncertainty(ratios []float64) float64 { return spread(ratios, Median(ratios), len(ratios)) }

// noiseOf returns how far off the median of ratios may be, as a part of it: by the noise of
// so many rounds, or by their own scatter.
func noiseOf(ratios, same []float64) float64 {
	return max(Noise(same, len(ratios)), Uncertainty(ratios))
}

// spread returns how close to a center medians of random choices of values are, of so many each, in 95 of 100 cases (a
// bootstrap), as a part of it. The same values give the same spread.
func spread(values []float64, center float64, many int) float64 {
	if len(values) == 0 || many == 0 {
		return 0
	}
	random := rand.New(rand.NewPCG(1, 1))
	distances := make([]float64, resamples)
	choice := make([]float64, many)
	for i := range distances {
		for j := range choice {
			choice[j] = values[random.IntN(len(values))]
		}
		distances[i] = math.Abs(Median(choice)/center - 1)
	}
	slices.Sort(distances)
	return distances[int(math.Ceil(certainty*resamples))-1]
}
