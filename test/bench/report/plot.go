// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	_ "gonum.org/v1/plot/vg/vgsvg" // the format
)

const (
	plotWidth = 16 * vg.Centimeter
	barWidth  = 12 // points
	rowHeight = 20
	labelSize = 9
	// fontReserve keeps labels off the bars where the font that they were laid out
	// for is missing, and the reader's is wider.
	fontReserve = "        "
	margins     = 90 // title and axis
)

var (
	oursColour  = color.RGBA{R: 0x1b, G: 0x6e, B: 0xc2, A: 0xff}
	otherColour = color.RGBA{R: 0xb0, G: 0xb8, B: 0xc0, A: 0xff}
	noiseColour = color.RGBA{R: 0xf2, G: 0xd6, B: 0x8a, A: 0xff}
)

// Plots writes one SVG for each workload into a directory, which is made.
func (r *Results) Plots(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write plots: %w", err)
	}
	for i := range r.Workloads {
		w := &r.Workloads[i]
		if len(w.Contenders) == 0 {
			continue
		}
		if err := w.plot(filepath.Join(dir, w.Name+".svg")); err != nil {
			return fmt.Errorf("plot %s: %w", w.Name, err)
		}
	}
	return nil
}

// plot draws the ratios to the static route with their spread, the first contender
// on top, before a band as wide as the noise.
func (w *Workload) plot(file string) error {
	p := plot.New()
	p.Title.Text = w.Name + ", ratio to the static route"
	p.X.Label.Text = "more is better"
	if w.LowerIsBetter {
		p.X.Label.Text = "less is better"
	}
	p.X.Min = 0
	band, err := w.band()
	if err != nil {
		return err
	}
	p.Add(band)
	names := make([]string, len(w.Contenders))
	for i, c := range w.Contenders {
		row := len(w.Contenders) - 1 - i
		names[row] = c.Name + fontReserve
		if err := addBar(p, c, float64(row)); err != nil {
			return err
		}
	}
	p.NominalY(names...)
	p.Y.Tick.Label.Font.Size = vg.Points(labelSize)
	p.X.Max = max(1.02*p.X.Max, 1.05) // room for the caps of the spread
	return p.Save(plotWidth, vg.Points(margins+rowHeight*float64(len(names))), file)
}

// band is what lies within the noise of 1.
func (w *Workload) band() (*plotter.Polygon, error) {
	half := max(w.Noise, 0.002) // else it cannot be seen
	bottom, top := -0.5, float64(len(w.Contenders))-0.5
	band, err := plotter.NewPolygon(plotter.XYs{
		{X: 1 - half, Y: bottom}, {X: 1 + half, Y: bottom}, {X: 1 + half, Y: top}, {X: 1 - half, Y: top},
	})
	if err != nil {
		return nil, err
	}
	band.Color, band.LineStyle.Width = noiseColour, 0
	return band, nil
}

func addBar(p *plot.Plot, c Contender, row float64) error {
	bar, err := plotter.NewBarChart(plotter.Values{c.Ratio}, vg.Points(barWidth))
	if err != nil {
		return err
	}
	bar.Horizontal, bar.XMin, bar.Color, bar.LineStyle.Width = true, row, otherColour, 0
	if c.Name == ours {
		bar.Color = oursColour
	}
	spread, err := plotter.NewXErrorBars(struct {
		plotter.XYs
		plotter.XErrors
	}{
		plotter.XYs{{X: c.Ratio, Y: row}},
		plotter.XErrors{{Low: math.Abs(c.Ratio - c.RatioMin), High: math.Abs(c.RatioMax - c.Ratio)}},
	})
	if err != nil {
		return err
	}
	p.Add(bar, spread)
	return nil
}
