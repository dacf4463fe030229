package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// templated is a template with what it reads.
type templated struct {
	*class.Template
	task render.Task
	// sources are those of the files that it reads; all of the bundle's where it reads none.
	sources []volume.SourceKey
	key     [32]byte
	data    []byte
}

// templates makes the files of the class's templates from the bundle's other files. Those whose inputs are as they were
// are not run again; all others run in one process.
func (f *fetch) templates(ctx context.Context) error {
	if len(f.class.Templates) == 0 {
		return nil
	}
	all, digests := make([]templated, len(f.class.Templates)), make([][32]byte, len(f.bundle.Files))
	request := render.Request{Files: map[string][]byte{}}
	var run []*templated
	for i := range all {
		t := &all[i]
		*t = f.template(&f.class.Templates[i], digests)
		if kept, ok := f.provider.outputs.get(t.key); ok {
			t.data = kept.Data
			continue
		}
		run = append(run, t)
		request.Templates = append(request.Templates, t.task)
		for _, file := range f.bundle.Files {
			if slices.Contains(t.task.Reads, file.Path) {
				request.Files[file.Path] = file.Data
			}
		}
	}
	if len(run) > 0 {
		if err := f.run(ctx, run, request); err != nil {
			return err
		}
	}
	for _, t := range all {
		file := newFile(t.Look, t.Path, t.data)
		file.Template = true
		file.Source, file.Others = t.sources[0], t.sources[1:]
		f.bundle.Files = append(f.bundle.Files, file)
	}
	return nil
}

// run makes what the templates make.
func (f *fetch) run(ctx context.Context, run []*templated, request render.Request) error {
	results, err := f.provider.renderer.Run(ctx, request)
	if err != nil {
		return templateError(err)
	}
	var wrong []error
	for i, result := range results {
		if result.Failure != nil {
			wrong = append(wrong, errors.New(failureText(run[i].Template, result.Failure)))
			continue
		}
		run[i].data = result.Data
	}
	if err := firstOf(wrong); err != nil {
		return &volume.Error{Reason: volume.ReasonInvalidContent, Message: err.Error()}
	}
	for _, t := range run {
		f.provider.outputs.put(t.key, render.Result{Data: t.data})
	}
	return nil
}

// failureText says where a template failed, and why. It holds no value.
func failureText(t *class.Template, failure *render.Failure) string {
	text := fmt.Sprintf("template %q", t.Path)
	if failure.Line > 0 {
		text += fmt.Sprintf(", line %d", failure.Line)
	}
	if failure.Function != "" {
		return fmt.Sprintf("%s: %s: %s", text, failure.Function, failure.Problem)
	}
	return text + ": " + failure.Problem
}

// templateError is an error of the process that makes files from templates.
func templateError(err error) error {
	reason := volume.ReasonInternal
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		reason = volume.ReasonNotReady
	} else if errors.Is(err, render.ErrTooLarge) {
		reason = volume.ReasonInvalidContent
	}
	return &volume.Error{Reason: reason, Message: err.Error(), Cause: err}
}

// template finds what a template reads. Digests are those of the bundle's files, as far as they are known.
func (f *fetch) template(t *class.Template, digests [][32]byte) templated {
	made := templated{Template: t, task: render.Task{Path: t.Path, Text: t.Text}}
	hash := f.provider.outputs.hash(t.Path, t.Text)
	add := func(key volume.SourceKey) {
		if !slices.Contains(made.sources, key) {
			made.sources = append(made.sources, key)
		}
	}
	for i, file := range f.bundle.Files {
		if t.Parsed.Reads(file.Path) {
			if digests[i] == ([32]byte{}) {
				digests[i] = f.provider.outputs.digest(file.Data)
			}
			made.task.Reads = append(made.task.Reads, file.Path)
			hash.add(file.Path, digests[i])
			add(file.Source)
		}
	}
	for _, path := range f.bundle.Absent {
		if t.Parsed.Reads(path) {
			made.task.Reads = append(made.task.Reads, path)
			hash.addAbsent(path)
		}
	}
	if len(made.sources) == 0 {
		for _, source := range f.bundle.Sources {
			add(source.Key)
		}
		slices.SortFunc(made.sources, func(a, b volume.SourceKey) int { return strings.Compare(a.String(), b.String()) })
	}
	if len(made.sources) == 0 {
		add(volume.SourceKey{})
	}
	made.key = hash.sum()
	return made
}
