package render_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
)

func one(text string) render.Request {
	return render.Request{
		Files:     map[string][]byte{"password": []byte("hunter2")},
		Templates: []render.Task{{Path: "first", Text: "fine"}, {Path: "second", Text: text, Reads: []string{"password"}}, {Path: "third", Text: "x"}},
	}
}

func TestRunner(t *testing.T) {
	runner := render.NewRunner(binaries.Render(t))
	request := one(`{{ file "password" }}!`)
	request.Extractions = []render.Extraction{{Text: `{"a":[1,2]}`, Format: "json", Expression: "max(a)"}, {Text: "{}", Expression: "not_null(a)"}}
	results, err := runner.Run(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%s %t %v", r.Data, r.Null, r.Failure))
	}
	if want := "2 false <nil>,  true <nil>, fine false <nil>, hunter2! false <nil>, x false <nil>"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	// many at once wait for each other
	var work sync.WaitGroup
	for range 20 {
		work.Go(func() {
			if results, err := runner.Run(t.Context(), one("{{ 1 }}")); err != nil || string(results[1].Data) != "1" {
				t.Errorf("%v, %v", results, err)
			}
		})
	}
	work.Wait()
}

// What has no end ends with the process, and the failure is that of the task that was running.
func TestRunnerEndsWhatHasNoEnd(t *testing.T) {
	runner := render.NewRunner(binaries.Render(t))
	const memory, processor = "needs more than 128 MiB of memory", "does not end within 1 second of processor time"
	for name, c := range map[string]struct{ text, want string }{
		"recursion":          {`{{ define "d" }}{{ template "d" }}{{ end }}{{ template "d" }}`, "calls itself without an end"},
		"recursion of lists": {`{{ define "d" }}{{ template "d" (list . .) }}{{ end }}{{ template "d" 1 }}`, "calls itself without an end"},
		"doubling": {
			`{{ $x := file "password" }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}`, memory,
		},
		"huge list":  {`{{ range until 2000000000 }}{{ end }}`, memory},
		"huge text":  {`{{ repeat 9000000000000 "x" | len }}`, memory},
		"long loops": {`{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`, processor},
		"output":     {`{{ range until 20 }}{{ file "password" | repeat 10000 }}{{ end }}`, "makes more than 1048576 bytes, or does together with what is before it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, mistakes := render.Parse("second", c.text); len(mistakes) > 0 {
				t.Fatal(mistakes)
			}
			results, err := runner.Run(t.Context(), one(c.text))
			busy := func() bool { // the machine was, and gave it less than a second of processor time
				return c.want == processor && err == nil && results[1].Failure != nil && results[1].Failure.Problem == "does not end within 10s"
			}
			for i := 0; i < 9 && busy(); i++ {
				results, err = runner.Run(t.Context(), one(c.text))
			}
			if err != nil {
				t.Fatal(err)
			}
			if results[0].Failure != nil || string(results[0].Data) != "fine" {
				t.Errorf("the task before it: %+v", results[0])
			}
			f := results[1].Failure
			if f != nil && c.want == memory && strings.HasPrefix(f.Problem, "does not end within") {
				return // a slow machine: another limit came first
			}
			if f == nil || f.Problem != c.want {
				t.Errorf("%+v, want %q", f, c.want)
			}
		})
	}
	t.Run("expression", func(t *testing.T) {
		t.Parallel()
		results, err := runner.Run(t.Context(), render.Request{Extractions: []render.Extraction{
			{Text: `{"a":[1,2]}`, Format: "json", Expression: "a" + strings.Repeat("|[@,@][]", 100)},
		}})
		if err != nil || results[0].Failure == nil || !strings.Contains(results[0].Failure.Problem, "needs more than") {
			t.Errorf("%+v, %v", results, err)
		}
	})
}

// What the program does wrong, or that it is not there, is an error and not a failure of a template.
func TestRunnerFailures(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	if _, err := render.NewRunner(missing).Run(t.Context(), one("x")); err == nil || !strings.Contains(err.Error(), missing) ||
		!strings.Contains(err.Error(), "install it there") {
		t.Errorf("missing program: %v", err)
	}
	garbage := filepath.Join(dir, "garbage")
	for script, want := range map[string]string{
		"exit 3":                             "ended early: it ended with the exit status 3",
		"echo '{\"task\":99,\"done\":true}'": "answered for a task that it was not given",
		"echo '{\"task\":0}'; kill -9 $$":    "",
		"while :; do echo '{\"task\":0}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'; done": "ended early: it makes more than",
	} {
		if err := os.WriteFile(garbage, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		results, err := render.NewRunner(garbage).Run(t.Context(), one("x"))
		switch {
		case want == "" && (err != nil || results[0].Failure == nil || results[0].Failure.Problem != `was ended by the signal "killed"`):
			t.Errorf("%s: %+v, %v", script, results, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
	big := one("x")
	big.Files["big"] = make([]byte, 9<<20)
	if _, err := render.NewRunner(binaries.Render(t)).Run(t.Context(), big); !errors.Is(err, render.ErrTooLarge) {
		t.Errorf("too much: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := render.NewRunner(binaries.Render(t)).Run(ctx, one("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
