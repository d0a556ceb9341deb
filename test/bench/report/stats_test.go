// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"testing"

	"replypath/test/await"
)

// TestRatios divides by the value of the same round, and leaves out what has none.
func TestRatios(t *testing.T) {
	values := []Value{{Round: 0, Value: 10}, {Round: 1, Value: 30}, {Round: 3, Value: 5}, {Round: 4, Value: 7}}
	base := []Value{{Round: 1, Value: 60}, {Round: 0, Value: 10}, {Round: 2, Value: 5}, {Round: 4, Value: 0}}
	await.Same(t, "ratios", []float64{1, 0.5}, Ratios(values, base))
}

// TestRatiosOfTurns takes the median of each round's turns, however many these are.
func TestRatiosOfTurns(t *testing.T) {
	values := []Value{
		{Round: 1, Turn: 0, Value: 30}, {Round: 0, Turn: 1, Value: 8}, {Round: 0, Turn: 2, Value: 90},
		{Round: 0, Turn: 0, Value: 10}, {Round: 0, Turn: 3, Value: 7},
	}
	base := []Value{
		{Round: 0, Turn: 0, Value: 10}, {Round: 0, Turn: 1, Value: 10}, {Round: 0, Turn: 2, Value: 10}, {Round: 1, Turn: 0, Value: 60},
	}
	await.Same(t, "ratios", []float64{1, 0.5}, Ratios(values, base))
	await.Same(t, "medians", []float64{9, 30}, perRound(values))
}

func TestNoise(t *testing.T) {
	await.Same(t, "of nothing", 0, Noise(nil, 3))
	if got := Noise([]float64{0.97}, 1); math.Abs(got-0.03) > 1e-9 {
		t.Errorf("of one ratio: %v, want its distance", got)
	}
	await.Same(t, "of equal values", 0, Noise([]float64{1, 1, 1}, 3))
	narrow := Noise([]float64{0.99, 1.01, 1, 0.995, 1.005}, 5)
	wide := Noise([]float64{0.9, 1.1, 1, 0.95, 1.05}, 5)
	if narrow <= 0 || narrow > 0.0101 || wide <= narrow || wide > 0.101 {
		t.Errorf("a narrow spread has %v, a wide one %v", narrow, wide)
	}
	await.Same(t, "of the same ratios", wide, Noise([]float64{0.9, 1.1, 1, 0.95, 1.05}, 5))
	// More rounds of the same kind are worth more.
	if more := Noise([]float64{0.9, 1.1, 1, 0.95, 1.05}, 50); more >= wide {
		t.Errorf("fifty rounds have %v, five %v", more, wide)
	}
	// One bad round of many moves a median little.
	if got := Noise([]float64{1.001, 0.999, 1, 1.001, 0.999, 1, 1.001, 0.999, 0.5}, 9); got > 0.01 {
		t.Errorf("with an outlier: %v", got)
	}
}
