// Command plot makes of the figures that `make bench` saved plots (SVG) and, with -page, the tables of a Markdown page.
//
//	plot -figures FILE -out DIRECTORY [-page FILE]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// figures are what test/bench saves.
type figures struct {
	Go      string    `json:"go"`
	CPUs    int       `json:"cpus"`
	Publish []publish `json:"publish"`
	Storms  []storm   `json:"storms"`
	Life    []life    `json:"life"`
	Hour    []hour    `json:"hour"`
}

type hour struct {
	Program    string `json:"program"`
	Pods       int    `json:"pods"`
	Identities int    `json:"identities"`
	Vault      int    `json:"vaultRequests"`
	Entra      int    `json:"entraRequests"`
}

type life struct {
	Name      string `json:"name"`
	Program   string `json:"program"`
	Time      spread `json:"milliseconds"`
	Processor spread `json:"processorMilliseconds"`
	Vault     int    `json:"vaultRequests"`
	Entra     int    `json:"entraRequests"`
	Memory    int    `json:"residentKiB"`
}

type publish struct {
	Program string `json:"program"`
	State   string `json:"state"`
	Secrets int    `json:"secrets"`
	Latency int    `json:"latencyMilliseconds"`
	Time    spread `json:"milliseconds"`
	Vault   int    `json:"vaultRequests"`
	Entra   int    `json:"entraRequests"`
}

type storm struct {
	Program    string `json:"program"`
	Pods       int    `json:"pods"`
	Identities int    `json:"identities"`
	Latency    int    `json:"latencyMilliseconds"`
	Half       spread `json:"halfMilliseconds"`
	Last       spread `json:"lastMilliseconds"`
	Processor  spread `json:"processorMilliseconds"`
	Vault      int    `json:"vaultRequests"`
	Entra      int    `json:"entraRequests"`
}

type spread struct {
	Runs   int     `json:"runs"`
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func main() {
	file := flag.String("figures", "", "what test/bench saved")
	out := flag.String("out", "", "directory of the plots")
	page := flag.String("page", "", "page whose tables are replaced")
	flag.Parse()
	if err := run(*file, *out, *page); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(file, out, page string) error {
	data, err := os.ReadFile(file) //nolint:gosec // the user's own
	if err != nil {
		return err
	}
	var f figures
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := latencyPlot(f.Publish, filepath.Join(out, "publish.svg")); err != nil {
		return err
	}
	if err := requestsPlot(f.Storms, filepath.Join(out, "requests.svg")); err != nil {
		return err
	}
	if page == "" {
		return nil
	}
	return fill(page, map[string]string{
		"publish": publishTable(f.Publish), "storms": stormTable(f.Storms), "life": lifeTable(f.Life), "hour": hourTable(f.Hour),
	})
}

// check finds what would be left out of a table or a plot.
func (f *figures) check() error {
	if len(f.Publish) == 0 || len(f.Storms) == 0 || len(f.Life) == 0 || len(f.Hour) == 0 {
		return fmt.Errorf("%d figures of publish, %d of storms, %d of life, %d of an hour: run all four tests", len(f.Publish), len(f.Storms), len(f.Life), len(f.Hour))
	}
	for i, p := range f.Publish {
		if want := []string{"plain", "driver"}[i%2]; p.Program != want || p.Time.Median <= 0 {
			return fmt.Errorf("figure %d of publish is not one of %s", i, want)
		}
	}
	for i, s := range f.Storms {
		if want := []string{"plain", "driver"}[i%2]; s.Program != want || s.Last.Median <= 0 {
			return fmt.Errorf("figure %d of storms is not one of %s", i, want)
		}
	}
	for i, l := range f.Life {
		if want := []string{"plain", "driver"}[i%2]; l.Program != want || want == "driver" && l.Time.Median <= 0 {
			return fmt.Errorf("figure %d of life is not one of %s", i, want)
		}
	}
	for i, h := range f.Hour {
		if want := []string{"plain", "driver"}[i%2]; h.Program != want || h.Vault <= 0 {
			return fmt.Errorf("figure %d of an hour is not one of %s", i, want)
		}
	}
	if len(f.Publish)%2+len(f.Storms)%2+len(f.Life)%2+len(f.Hour)%2 > 0 {
		return fmt.Errorf("the last figure has no driver beside it")
	}
	return nil
}

// titles say which line is which program in which state.
var titles = map[string]string{
	"plain cold":   "provider's way, new process",
	"plain warm":   "provider's way, later Pod",
	"driver cold":  "this driver, new process",
	"driver warm":  "this driver, later Pod, new values",
	"driver again": "this driver, later Pod, known values",
}

// series are lines with their order in the legend.
type series struct {
	titles []string
	points map[string]plotter.XYs
}

func (s *series) add(title string, x, y float64) {
	if s.points == nil {
		s.points = map[string]plotter.XYs{}
	}
	if s.points[title] == nil {
		s.titles = append(s.titles, title)
	}
	s.points[title] = append(s.points[title], plotter.XY{X: x, Y: y})
}

// draw writes a plot with logarithmic axes.
func (s *series) draw(title, x, y string, xs []float64, path string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size, p.Title.Padding = 14, 8
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	var ticks plot.ConstantTicks
	for _, v := range xs {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.Itoa(int(v))})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks, plot.LogTicks{Prec: -1}
	p.Add(plotter.NewGrid())
	for i, title := range s.titles {
		points := s.points[title]
		slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = plotutil.Color(i), vg.Points(1.5), plotutil.Dashes(i)
		dots.Color, dots.Shape, dots.Radius = plotutil.Color(i), plotutil.Shape(i), vg.Points(3)
		p.Add(line, dots)
		p.Legend.Add(title, line, dots)
	}
	p.Legend.Top, p.Legend.Left, p.Legend.Padding = true, true, 2
	p.Legend.XOffs, p.Legend.YOffs = 8, -4
	p.Y.Max *= 8 // room for the legend
	return p.Save(7*vg.Inch, 4.5*vg.Inch, path)
}

func latencyPlot(all []publish, path string) error {
	var lines series
	var xs []float64
	away := slices.MaxFunc(all, func(a, b publish) int { return a.Latency - b.Latency }).Latency
	for _, p := range all {
		title := titles[p.Program+" "+p.State]
		if p.Latency != away || title == "" {
			continue // a known value is no less work for a program that keeps none
		}
		lines.add(title, float64(p.Secrets), p.Time.Median)
		if !slices.Contains(xs, float64(p.Secrets)) {
			xs = append(xs, float64(p.Secrets))
		}
	}
	return lines.draw(fmt.Sprintf("Publish of a volume, vault and Entra ID %d ms away", away), "secrets", "milliseconds, median", xs, path)
}

func requestsPlot(all []storm, path string) error {
	var lines series
	var xs []float64
	for _, s := range all {
		title := "provider's way"
		if s.Program == "driver" {
			title = "this driver, one identity"
			if s.Identities > 1 {
				title = "this driver, an identity for each Pod"
			}
		} else if s.Identities > 1 {
			continue // the same
		}
		lines.add(title, float64(s.Pods), float64(s.Vault+s.Entra))
		if s.Pods == 1 && s.Program == "driver" {
			lines.add("this driver, an identity for each Pod", 1, float64(s.Vault+s.Entra))
		}
		if !slices.Contains(xs, float64(s.Pods)) {
			xs = append(xs, float64(s.Pods))
		}
	}
	return lines.draw("Pods that start at once, 10 secrets each", "Pods on the node", "requests to vault and Entra ID", xs, path)
}

func (s spread) String() string {
	return fmt.Sprintf("%s (%s–%s)", digits(s.Median), digits(s.Low), digits(s.High))
}

// digits rounds to what a measurement of milliseconds is worth.
func digits(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

var states = map[string]string{"cold": "new process", "warm": "later Pod, new values", "again": "later Pod, known values"}

func publishTable(all []publish) string {
	var b strings.Builder
	b.WriteString("| away | secrets | state | provider's way, ms | this driver, ms | ratio | requests | of this driver |\n|---|---|---|---|---|---|---|---|\n")
	for i := 0; i < len(all); i += 2 {
		p, d := all[i], all[i+1]
		fmt.Fprintf(&b, "| %d ms | %d | %s | %v | %v | %s | %d | %d |\n", p.Latency, p.Secrets, states[p.State], p.Time, d.Time,
			digits(p.Time.Median/d.Time.Median), p.Vault+p.Entra, d.Vault+d.Entra)
	}
	return b.String()
}

func stormTable(all []storm) string {
	var b strings.Builder
	b.WriteString("| Pods | identities | program | half have their files, ms | all, ms | ratio | processor time, ms | requests to the vault | to Entra ID |\n" +
		"|---|---|---|---|---|---|---|---|---|\n")
	for i, s := range all {
		name, ratio := "provider's way", ""
		if i%2 == 1 {
			name, ratio = "this driver", digits(all[i-1].Last.Median/s.Last.Median)
		}
		fmt.Fprintf(&b, "| %d | %d | %s | %v | %v | %s | %s | %d | %d |\n", s.Pods, s.Identities, name, s.Half, s.Last, ratio,
			digits(s.Processor.Median), s.Vault, s.Entra)
	}
	return b.String()
}

func lifeTable(all []life) string {
	var b strings.Builder
	b.WriteString("| what | program | all, ms | processor time, ms | requests to the vault | to Entra ID |\n|---|---|---|---|---|---|\n")
	for _, l := range all {
		name := "this driver"
		if l.Program == "plain" {
			name = "provider's way"
			if l.Time.Median == 0 {
				continue // it has nothing to do there
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %v | %s | %d | %d |\n", l.Name, name, l.Time, digits(l.Processor.Median), l.Vault, l.Entra)
	}
	return b.String()
}

func hourTable(all []hour) string {
	var b strings.Builder
	b.WriteString("| Pods | identities | program | requests to the vault | to Entra ID | ratio |\n|---|---|---|---|---|---|\n")
	plain := 0
	for _, h := range all {
		name, ratio := "this driver", ""
		if h.Program == "plain" {
			name, plain = "provider's way", h.Vault+h.Entra
		} else {
			ratio = digits(float64(plain) / float64(h.Vault+h.Entra))
		}
		fmt.Fprintf(&b, "| %d | %d | %s | %d | %d | %s |\n", h.Pods, h.Identities, name, h.Vault, h.Entra, ratio)
	}
	return b.String()
}

// fill replaces what is between two marks of a page for each table.
func fill(page string, tables map[string]string) error {
	data, err := os.ReadFile(page) //nolint:gosec // the user's own
	if err != nil {
		return err
	}
	text := string(data)
	for name, table := range tables {
		begin, end := "<!-- figures: "+name+" -->\n", "<!-- end -->"
		before, rest, found := strings.Cut(text, begin)
		_, after, ended := strings.Cut(rest, end)
		if !found || !ended {
			return fmt.Errorf("%s has no place for the table %s", page, name)
		}
		text = before + begin + "\n" + table + "\n" + end + after
	}
	return os.WriteFile(page, []byte(text), 0o644) //nolint:gosec // a page of the documentation
}
