package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/fields"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/render"
)

// extract makes the files of the fields of a secret's value.
func (f *fetch) extract(ctx context.Context, o *class.Object, value, file string) (c contents, err error) {
	if o.Extract.Whole {
		c.files = append(c.files, newFile(o.Look, file, []byte(value)))
	}
	document, err := fields.Decode(value, o.Extract.Content)
	if err != nil {
		return c, err
	}
	if o.Extract.All {
		err = f.allFields(o, document, file, &c)
	} else {
		err = f.someFields(ctx, o, document, value, &c)
	}
	return c, err
}

// allFields makes a file of each field of the top level, in the directory of the object.
func (f *fetch) allFields(o *class.Object, document any, dir string, c *contents) error {
	object, ok := document.(map[string]any)
	if !ok {
		return errors.New("the value is no object, so it has no fields: remove fields, or correct contentFormat or the value")
	}
	if n := f.files.Add(int64(len(object))); n > class.MaxFiles {
		return fmt.Errorf("fields: all and objectVersionHistory ask for more than %d files in all: split the class", class.MaxFiles)
	}
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(object)) {
		err := fields.CheckName(name)
		var data []byte
		if err == nil {
			if data, err = fields.Text(object[name]); err != nil {
				err = fmt.Errorf("the field %.60q: %w", name, err)
			}
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%w: use jmesPath to choose fields and their files", err))
			continue
		}
		c.files = append(c.files, newFile(o.Look, path.Join(dir, name), data))
	}
	return firstOf(wrong)
}

// someFields makes a file of each entry of jmesPath.
func (f *fetch) someFields(ctx context.Context, o *class.Object, document any, value string, c *contents) error {
	found, err := f.evaluate(ctx, o.Extract, document, value)
	if err != nil {
		return err
	}
	var wrong []error
	for i, e := range o.Extract.Entries {
		switch result := found[i]; {
		case result.Failure != nil:
			wrong = append(wrong, fmt.Errorf("jmesPath %.60q %s", e.Expression, result.Failure.Problem))
		case result.Null && e.Optional:
			c.absent = append(c.absent, e.Path)
		case result.Null:
			wrong = append(wrong, fmt.Errorf("jmesPath %.60q matches nothing, or null: correct path or value, or set optional to true",
				e.Expression))
		default:
			look := o.Look
			look.Mode = e.Mode
			c.files = append(c.files, newFile(look, e.Path, result.Data))
		}
	}
	return firstOf(wrong)
}

// evaluate returns what each entry's expression finds. Those that are plain paths need no process, and neither do those that were
// evaluated on the same value before.
func (f *fetch) evaluate(ctx context.Context, x *class.Extract, document any, value string) ([]render.Result, error) {
	found, keys := make([]render.Result, len(x.Entries)), make([][32]byte, len(x.Entries))
	var request render.Request
	var rest []int
	var digest [32]byte // of the value, once for all expressions
	for i, e := range x.Entries {
		if !e.Compiled.Plain() {
			if digest == ([32]byte{}) {
				digest = f.provider.outputs.digest([]byte(value))
			}
			// no template has a path with a control character
			keys[i] = f.provider.outputs.hash("\x00"+string(x.Content)+" "+e.Expression, "").add("", digest).sum()
			if kept, ok := f.provider.outputs.get(keys[i]); ok {
				found[i] = kept
				continue
			}
			rest = append(rest, i)
			request.Extractions = append(request.Extractions,
				render.Extraction{Text: value, Format: string(x.Content), Expression: e.Expression})
			continue
		}
		data, err := fields.Text(e.Compiled.Find(document))
		switch {
		case errors.Is(err, fields.ErrNull):
			found[i].Null = true
		case err != nil:
			found[i].Failure = &render.Failure{Problem: err.Error()}
		}
		found[i].Data = data
	}
	if len(rest) == 0 {
		return found, nil
	}
	results, err := f.provider.renderer.Run(ctx, request)
	if err != nil {
		return nil, err
	}
	for i, result := range results {
		found[rest[i]] = result
		if result.Failure != nil {
			break // what follows may not have been evaluated
		}
		f.provider.outputs.put(keys[rest[i]], result)
	}
	return found, nil
}

// firstOf makes one error of several, of which it names the first few.
func firstOf(wrong []error) error {
	if len(wrong) == 0 {
		return nil
	}
	texts := make([]string, 0, mostReported)
	for _, err := range wrong[:min(len(wrong), mostReported)] {
		texts = append(texts, err.Error())
	}
	if more := len(wrong) - mostReported; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(texts, "; "))
}

// contentError is the error of an object whose content cannot become its files.
func contentError(o *class.Object, requestID string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &volume.Error{
			Reason:  volume.ReasonNotReady,
			Message: fmt.Sprintf("%s: the node has no time for its fields: %v", label(o), err),
			Cause:   err,
		}
	}
	return &volume.Error{
		Reason:    volume.ReasonInvalidContent,
		Message:   fmt.Sprintf("%s: %v", label(o), err),
		RequestID: requestID,
		Cause:     err,
	}
}
