// Command dashboard draws a Grafana dashboard as an SVG picture, from the data of a Prometheus and with the dashboard's own
// queries. It fails where a query returns nothing, unless that is known to be so.
//
//	go run ./hack/dashboard -prometheus http://127.0.0.1:9090 -out docs/images/dashboard.svg deploy/monitoring/dashboard.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.prometheus, "prometheus", "http://127.0.0.1:9090", "base URL of the Prometheus")
	flag.StringVar(&o.out, "out", "", "SVG file to write; empty: only query")
	flag.StringVar(&o.rateInterval, "rate-interval", "1m", "what $__rate_interval stands for")
	flag.DurationVar(&o.last, "last", time.Hour, "how far back to look")
	empty := flag.String("empty", "", "comma-separated PANEL/REFID of queries that may return nothing")
	flag.Parse()
	o.empty = strings.Split(*empty, ",")
	if err := run(context.Background(), o, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

type options struct {
	prometheus, out, rateInterval string
	last                          time.Duration
	empty                         []string
}

// board is what is read of a dashboard.
type board struct {
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
}

type panel struct {
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
	} `json:"targets"`
	lines []line
}

// line is one series.
type line struct {
	name   string
	points []point
}

type point struct{ at, value float64 }

func run(ctx context.Context, o options, path string) error {
	data, err := os.ReadFile(path) //nolint:gosec // the person's choice
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	var b board
	if err := json.Unmarshal(data, &b); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	end := time.Now()
	start := end.Add(-o.last)
	queries := 0
	var wrong []error
	for i := range b.Panels {
		p := &b.Panels[i]
		for _, target := range p.Targets {
			lines, err := query(ctx, o, target.Expr, target.LegendFormat, start, end)
			where := p.Title + "/" + target.RefID
			switch {
			case err != nil:
				wrong = append(wrong, fmt.Errorf("%s: %s: %w", where, target.Expr, err))
			case len(lines) == 0 && !slices.Contains(o.empty, where):
				wrong = append(wrong, fmt.Errorf("%s: %s: no data", where, target.Expr))
			}
			p.lines = append(p.lines, lines...)
			queries++
		}
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	fmt.Printf("%d panels, %d queries: all return what they should\n", len(b.Panels), queries)
	if o.out == "" {
		return nil
	}
	return os.WriteFile(o.out, draw(&b, float64(start.Unix()), float64(end.Unix())), 0o644) //nolint:gosec,wrapcheck // a picture; names the file
}

var label = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// query runs one of the dashboard's expressions over the time.
func query(ctx context.Context, o options, expr, legend string, start, end time.Time) ([]line, error) {
	expr = strings.NewReplacer("$__rate_interval", o.rateInterval, "$instance", ".*").Replace(expr)
	const points = 110
	form := url.Values{
		"query": {expr}, "start": {strconv.FormatInt(start.Unix(), 10)}, "end": {strconv.FormatInt(end.Unix(), 10)},
		"step": {strconv.Itoa(max(1, int(end.Sub(start).Seconds())/points))},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.prometheus+"/api/v1/query_range?"+form.Encode(), nil)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the query
	}
	resp, err := (&http.Client{Transport: &http.Transport{}, Timeout: time.Minute}).Do(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the query
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller names the query
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		return nil, fmt.Errorf("%s %s %w", resp.Status, answer.Error, err)
	}
	var lines []line
	for _, series := range answer.Data.Result {
		l := line{name: label.ReplaceAllStringFunc(legend, func(m string) string {
			return series.Metric[label.FindStringSubmatch(m)[1]]
		})}
		l.name = strings.TrimSpace(l.name)
		for _, v := range series.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			if value, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(value) && !math.IsInf(value, 0) {
				l.points = append(l.points, point{at, value})
			}
		}
		if len(l.points) > 0 {
			lines = append(lines, l)
		}
	}
	return lines, nil
}
