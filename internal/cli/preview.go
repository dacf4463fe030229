package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

func newPreviewCommand(build version.Build) *cobra.Command {
	f := subjectFlags{build: build}
	var reveal bool
	c := &cobra.Command{
		Use:   "preview [-f FILE...] [NAMESPACE/NAME...]",
		Short: "Show the files that a pod would see, fetched from the vault",
		Long: `preview fetches the objects of SecretProviderClasses as the driver does, and prints the files that a pod
would see: path, mode, size, version, expiry and source. Values are printed only with
--reveal. Nothing is written to disk. Classes come from files, or by name from the cluster.

It authenticates as you: with the AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET variables, the
identity of this machine, or the account of the Azure tools (az login). With --service-account it
authenticates as the pods of that service account do: it requests a token from the API server with your
own rights (create serviceaccounts/token). With --node-publish-secret-file it authenticates
as the service principal of that Secret, with --as-class as the class does.

It exits with 1 if a class cannot be fetched. ` + "`keyvault-csi check`" + ` finds the cause.`,
		Example: `  az login && keyvault-csi preview -f class.yaml
  keyvault-csi preview -f class.yaml --service-account shop --namespace default
  keyvault-csi preview default/shop --output json
  keyvault-csi preview -f class.yaml --node-publish-secret-file credentials.yaml --reveal`,
		RunE: func(cmd *cobra.Command, args []string) error { return preview(cmd, args, &f, reveal) },
	}
	f.register(c.Flags())
	c.Flags().BoolVar(&reveal, "reveal", false, "print the values too: they are secrets")
	f.complete(c)
	return c
}

// previewed is what a pod with one class would see.
type previewed struct {
	Class string `json:"class"`
	// Origin is the class's file, or "cluster".
	Origin   string          `json:"origin"`
	Identity string          `json:"identity,omitempty"`
	Files    []previewedFile `json:"files"`
	Warnings []string        `json:"warnings,omitempty"`
	Error    *failure        `json:"error,omitempty"`
}

// previewedFile is one file. It has its value only with --reveal.
type previewedFile struct {
	Path      string     `json:"path"`
	Mode      string     `json:"mode"`
	Size      int        `json:"size"`
	Object    string     `json:"object"`
	Version   string     `json:"version"`
	Vault     string     `json:"vault"`
	NotBefore *time.Time `json:"notBefore,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"`
	// Value is set if the content is UTF-8, otherwise ValueBase64.
	Value       *string `json:"value,omitempty"`
	ValueBase64 *string `json:"valueBase64,omitempty"`
}

// failure is an error as JSON.
type failure struct {
	Reason    volume.Reason `json:"reason"`
	Message   string        `json:"message"`
	RequestID string        `json:"requestID,omitempty"`
}

func failed(err error) *failure {
	f := &failure{Reason: volume.ReasonOf(err), Message: err.Error()}
	if e, ok := errors.AsType[*volume.Error](err); ok {
		f.RequestID = e.RequestID
	}
	return f
}

func preview(cmd *cobra.Command, names []string, f *subjectFlags, reveal bool) error {
	waiting := newProgress(cmd.ErrOrStderr())
	s, err := openSubjects(cmd.Context(), f, names, cmd.InOrStdin(), waiting)
	if err != nil {
		return err
	}
	defer s.provider.Close()
	all, wrong := make([]previewed, 0, len(s.list)), false
	for _, one := range s.list {
		waiting.begin("fetching " + one.name())
		p := s.preview(cmd.Context(), one, reveal)
		if p.Error != nil {
			wrong = true
			if isPlugin(cmd) {
				p.Error.Message = asPlugin(p.Error.Message)
			}
		}
		all = append(all, p)
	}
	waiting.end()
	if !isTable(f.output) {
		err = printValue(cmd.OutOrStdout(), f.output, all)
	} else {
		err = printPreviews(newPaper(cmd.OutOrStdout()), all, time.Now())
	}
	if err == nil && wrong {
		err = ErrReported
	}
	return err
}

func (s *subjects) preview(ctx context.Context, one subject, reveal bool) previewed {
	p := previewed{Class: one.name(), Origin: one.origin, Files: []previewedFile{}}
	if len(one.mistakes) > 0 {
		p.Error = &failure{Reason: volume.ReasonInvalidClass, Message: one.mistake()}
		return p
	}
	bundle, err := s.fetch(ctx, one, &p)
	if err != nil {
		p.Error = failed(err)
		return p
	}
	for _, file := range bundle.Files {
		p.Files = append(p.Files, describe(file, bundle.Objects, reveal))
	}
	slices.SortFunc(p.Files, func(a, b previewedFile) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	p.Warnings = append(p.Warnings, bundle.Warnings...)
	return p
}

// mistake is all mistakes of the class in one line.
func (s subject) mistake() string {
	lines := make([]string, 0, len(s.mistakes))
	for _, m := range s.mistakes {
		lines = append(lines, fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.Message))
	}
	return strings.Join(lines, "; ")
}

// fetch does what the driver does when a pod starts.
func (s *subjects) fetch(ctx context.Context, one subject, p *previewed) (*volume.Bundle, error) {
	req, err := s.request(ctx, one.class, s.podOf(one.class))
	if err != nil {
		return nil, err
	}
	binding, err := s.provider.Bind(ctx, req)
	if err != nil {
		return nil, err
	}
	p.Identity, p.Warnings = binding.Identity(), binding.Warnings()
	return binding.Fetch(ctx, volume.FetchOptions{Priority: volume.PriorityMount})
}

// describe returns a file with the object that it comes from.
func describe(file volume.File, objects []volume.Object, reveal bool) previewedFile {
	d := previewedFile{Path: file.Path, Mode: fmt.Sprintf("%04o", file.Mode), Size: len(file.Data)}
	if file.Template {
		d.Object = "template"
	} else if i := objectOf(file, objects); i >= 0 {
		o := objects[i]
		d.Object, d.Version, d.Vault = o.ID, o.Version, o.Vault
		d.NotBefore, d.Expires = stated(o.NotBefore), stated(o.Expires)
	}
	if reveal {
		text := string(file.Data)
		if utf8.ValidString(text) {
			d.Value = &text
		} else {
			text = base64.StdEncoding.EncodeToString(file.Data)
			d.ValueBase64 = &text
		}
	}
	return d
}

// objectOf returns the index of the object that a file comes from; -1 where it comes from none.
func objectOf(file volume.File, objects []volume.Object) int {
	// of a certificate there may be two files beside the object's own
	beside := strings.TrimSuffix(strings.TrimSuffix(file.Path, ".crt"), ".key")
	for _, path := range []string{file.Path, beside} {
		if i := slices.IndexFunc(objects, func(o volume.Object) bool { return o.Path == path }); i >= 0 {
			return i
		}
	}
	// a field of its value
	source := file.Source
	return slices.IndexFunc(objects, func(o volume.Object) bool {
		return strings.EqualFold(o.ID, source.Kind+"/"+source.Name) && strings.Contains(source.Vault, "//"+o.Vault+"/")
	})
}

func stated(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}

func printPreviews(p *paper, all []previewed, now time.Time) error {
	for i, one := range all {
		if i > 0 {
			p.line()
		}
		p.line(p.paint(one.Class, bold), p.paint("  ("+one.Origin+")", faint))
		if one.Identity != "" {
			p.line("as ", one.Identity)
		}
		if one.Error != nil {
			p.line(p.paint("failed", red), "  ", string(one.Error.Reason), ": ", one.Error.Message)
			continue
		}
		p.line()
		p.table(tree(one.Files, now))
		for _, w := range one.Warnings {
			p.line(p.paint("warning", yellow), "  ", w)
		}
		for _, f := range one.Files {
			if f.Value != nil || f.ValueBase64 != nil {
				p.line()
				p.value(f)
			}
		}
	}
	return p.err
}

// value prints the content of a file.
func (p *paper) value(f previewedFile) {
	text, what := f.Value, f.Path
	if text == nil {
		text, what = f.ValueBase64, f.Path+" (base64)"
	}
	p.line(p.paint("--- "+what, bold))
	p.line(strings.TrimSuffix(forTerminal(*text), "\n"))
}

// forTerminal keeps a value from writing more than text to a terminal.
func forTerminal(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, text)
}

// tree returns the rows of files, below their directories.
func tree(files []previewedFile, now time.Time) [][]cell {
	rows := [][]cell{headings("FILE", "MODE", "SIZE", "OBJECT", "VERSION", "EXPIRES", "VAULT")}
	rows[0][2].right = true
	shown := map[string]bool{".": true}
	for _, f := range files {
		rows = append(rows, directories(path.Dir(f.Path), shown)...)
		expires := cell{text: "-", style: faint}
		if f.Expires != nil {
			expires = cell{text: f.Expires.Format(time.RFC3339), style: urgency(f.Expires.Sub(now))}
		}
		rows = append(rows, []cell{
			{
				text: indented(f.Path),
			},
			{text: f.Mode},
			{text: fmt.Sprint(f.Size), right: true},
			{text: f.Object},
			{text: f.Version},
			expires,
			{text: f.Vault},
		})
	}
	return rows
}

// directories returns rows for the directories of a file that are not shown yet.
func directories(dir string, shown map[string]bool) [][]cell {
	if shown[dir] {
		return nil
	}
	shown[dir] = true
	return append(directories(path.Dir(dir), shown), []cell{{text: indented(dir) + "/", style: blue}, {text: "0755"}})
}

func indented(file string) string {
	return strings.Repeat("  ", strings.Count(file, "/")) + path.Base(file)
}

// soon is the time before expiry from which an object is highlighted.
const soon = 30 * 24 * time.Hour

func urgency(left time.Duration) style {
	switch {
	case left <= 0:
		return red
	case left < soon:
		return yellow
	}
	return plain
}
