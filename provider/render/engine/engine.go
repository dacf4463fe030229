// Package engine does the work of the program keyvault-render: it makes files from templates, and evaluates JMESPath
// expressions. It bounds what it writes; its process bounds memory and time.
package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	jmespath "github.com/jmespath-community/go-jmespath"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// Run reads a request and answers it. An error is that of the request or of the connection.
func Run(from io.Reader, to io.Writer) error {
	var request render.Request
	if err := json.NewDecoder(from).Decode(&request); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	answer, task := json.NewEncoder(to), 0
	left := render.MaxOutput
	do := func(work func() render.Progress) error {
		if err := answer.Encode(render.Progress{Task: task}); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		done := guarded(work)
		done.Task, done.Done = task, true
		task++
		if left -= len(done.Data); left < 0 {
			done = render.Progress{Task: done.Task, Done: true, Failure: tooLarge()}
		}
		if err := answer.Encode(done); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	}
	for _, e := range request.Extractions {
		if err := do(func() render.Progress { return evaluate(e) }); err != nil {
			return err
		}
	}
	for _, t := range request.Templates {
		if err := do(func() render.Progress { return execute(t, request.Files, left) }); err != nil {
			return err
		}
	}
	return nil
}

func tooLarge() *render.Failure {
	return &render.Failure{Problem: fmt.Sprintf("makes more than %d bytes, or does together with what is before it", render.MaxOutput)}
}

// guarded turns a panic into a failure. Its value may quote anything.
func guarded(work func() render.Progress) (done render.Progress) {
	defer func() {
		if recover() != nil {
			done = render.Progress{Failure: &render.Failure{Problem: "ended in a panic of a library"}}
		}
	}()
	return work()
}

// evaluate evaluates an expression.
func evaluate(e render.Extraction) render.Progress {
	fail := func(problem string) render.Progress {
		return render.Progress{Failure: &render.Failure{Problem: problem}}
	}
	compiled, err := jmespath.Compile(e.Expression)
	if err != nil {
		return fail("is not a JMESPath expression")
	}
	document, err := fields.Decode(e.Text, fields.Format(e.Format))
	if err != nil {
		return fail(err.Error())
	}
	found, err := compiled.Search(comparableOf(document))
	if err != nil { // the library's message may quote a value
		return fail("cannot be evaluated on the value: a function gets what it does not take")
	}
	data, err := fields.Text(found)
	switch {
	case errors.Is(err, fields.ErrNull):
		return render.Progress{Null: true}
	case err != nil:
		return fail(err.Error())
	}
	return render.Progress{Data: data}
}
