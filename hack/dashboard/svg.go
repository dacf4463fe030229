package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"time"
)

// The measures of the picture, in pixels.
const (
	column   = 50 // of Grafana's 24
	row      = 30
	gap      = 4
	headline = 22
	axis     = 46
	legendAt = 14 // height of a legend's line
	wordAt   = 6  // width of a letter
)

// palette are colours that differ for most eyes.
var palette = []string{"#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#e69f00", "#0b3d2e", "#882255"} //nolint:gochecknoglobals // a constant

// draw makes the picture.
func draw(b *board, start, end float64) []byte {
	height := 0
	for _, p := range b.Panels {
		height = max(height, (p.GridPos.Y+p.GridPos.H)*row)
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="10" fill="#333">`+"\n", 24*column, height+30)
	fmt.Fprintf(&w, `<rect width="100%%" height="100%%" fill="#f4f5f7"/><text x="8" y="20" font-size="15" font-weight="bold">%s</text>`+"\n", html.EscapeString(b.Title))
	fmt.Fprintln(&w, `<g transform="translate(0 30)">`)
	for i := range b.Panels {
		drawPanel(&w, &b.Panels[i], start, end)
	}
	fmt.Fprintln(&w, "</g></svg>")
	return w.Bytes()
}

func drawPanel(w *bytes.Buffer, p *panel, start, end float64) {
	x, y := p.GridPos.X*column+gap/2, p.GridPos.Y*row+gap/2
	width, height := p.GridPos.W*column-gap, p.GridPos.H*row-gap
	fmt.Fprintf(w, `<svg x="%d" y="%d" width="%d" height="%d"><rect width="100%%" height="100%%" rx="3" fill="#fff" stroke="#d8dadf"/>`+
		`<text x="8" y="15" font-size="11" font-weight="bold">%s</text>`+"\n", x, y, width, height, html.EscapeString(p.Title))
	legend, legendHeight := layLegend(p.lines, width)
	left, top, right, bottom := float64(axis), float64(headline), float64(width-10), float64(height-legendHeight-18)
	low, high := bounds(p.lines)
	toX := func(at float64) float64 { return left + (at-start)/(end-start)*(right-left) }
	toY := func(v float64) float64 { return bottom - (v-low)/(high-low)*(bottom-top) }
	for i := range 4 {
		v := low + (high-low)*float64(i)/3
		fmt.Fprintf(w, `<path d="M%.0f %.1fH%.0f" stroke="#e6e8ec"/><text x="%.0f" y="%.1f" text-anchor="end" fill="#777">%s</text>`+"\n",
			left, toY(v), right, left-4, toY(v)+3, html.EscapeString(format(v, p.FieldConfig.Defaults.Unit)))
	}
	for i := range 4 {
		at := start + (end-start)*float64(i)/3
		anchor := [4]string{"start", "middle", "middle", "end"}[i]
		fmt.Fprintf(w, `<text x="%.0f" y="%.0f" text-anchor="%s" fill="#777">%s</text>`+"\n", toX(at), bottom+12, anchor,
			time.Duration((at-start)*float64(time.Second)).Round(time.Second))
	}
	for i, l := range p.lines {
		fmt.Fprintf(w, `<path fill="none" stroke="%s" stroke-width="1.4" d="`, palette[i%len(palette)])
		last := math.Inf(-1)
		for _, at := range l.points {
			command := "L"
			if at.at-last > (end-start)/50 {
				command = "M"
			}
			last = at.at
			fmt.Fprintf(w, "%s%.1f %.1f", command, toX(at.at), toY(at.value))
		}
		fmt.Fprintln(w, `"/>`)
	}
	for i, at := range legend {
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="9" height="3" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			at[0], height-legendHeight+at[1]-3, palette[i%len(palette)], at[0]+12, height-legendHeight+at[1], html.EscapeString(p.lines[i].name))
	}
	fmt.Fprintln(w, "</svg>")
}

// layLegend places the names in lines; it returns their places and the height of all.
func layLegend(lines []line, width int) (places [][2]int, height int) {
	x, y := 8, legendAt-4
	for _, l := range lines {
		long := 12 + len(l.name)*wordAt + 8
		if x > 8 && x+long > width {
			x, y = 8, y+legendAt
		}
		places = append(places, [2]int{x, y})
		x += long
	}
	return places, y + 6
}

func bounds(lines []line) (low, high float64) {
	low, high = 0, 0
	for _, l := range lines {
		for _, p := range l.points {
			low, high = min(low, p.value), max(high, p.value)
		}
	}
	if high == low {
		high = low + 1
	}
	return low, high
}

// format writes a value in Grafana's unit.
func format(v float64, unit string) string {
	short := func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }
	switch unit {
	case "s":
		switch size := math.Abs(v); {
		case size == 0:
			return "0 s"
		case size < 1:
			return short(v*1000) + " ms"
		case size < 120:
			return short(v) + " s"
		case size < 2*3600:
			return short(v/60) + " min"
		case size < 48*3600:
			return short(v/3600) + " h"
		}
		return short(v/86400) + " d"
	case "bytes":
		if v >= 1<<20 {
			return short(v/(1<<20)) + " MiB"
		}
		return short(v/1024) + " KiB"
	case "ops":
		return short(v) + "/s"
	}
	return short(v)
}
