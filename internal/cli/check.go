package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
)

func newCheckCommand(build version.Build) *cobra.Command {
	f := checkFlags{subjectFlags: subjectFlags{build: build}}
	c := &cobra.Command{
		Use:   "check [-f FILE...] [NAMESPACE/NAME...] | -A | --pod NAME | --workload NAME",
		Short: "Diagnose why a pod does not get its secrets: class, identity, network, permission per object",
		Long: `check takes each step from a SecretProviderClass to its files, and continues after a failure: the class
itself; the identity and its token; for each vault name resolution, connection, TLS and tenant; each
object; and the templates. For each problem it prints the fix. It prints no value. Classes come from files, or by name
from the cluster.

It authenticates as you: with the AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET variables, the
identity of this machine, or the account of the Azure tools (az login). With --service-account it
authenticates as the pods of that service account do: it requests a token from the API server with your
own rights (create serviceaccounts/token). With --node-publish-secret-file it authenticates
as the service principal of that Secret, with --as-class as the class does.

With -A, --pod or --workload it starts from what is broken: it reads the status objects, Pods and events that you
may read, and for each volume that fails, waits or is stale it takes the steps as the Pod does: with its
class, its volumeAttributes and a token of its service account. It ends with the one thing to do. What
cannot be tried from your machine, such as the node's identity, is taken from what the driver reported.

Classes are checked at once; a token is requested once for each identity. It exits with 1 if a step
is not ok, with 2 if it could not check.

The statuses are ok, invalid (the class, or content that cannot become the file), refused (no token),
denied (no permission), blocked (the vault's network rules), missing, disabled, expired,
not-yet-valid, unreachable, throttled, failed, and skipped (not tried, because of an earlier failure).`,
		Example: `  az login && keyvault-csi check -f class.yaml
  keyvault-csi check default/shop --service-account shop
  keyvault-csi check -A
  keyvault-csi check --pod shop-6d8f7c-x2k4p -n shop
  keyvault-csi check --workload deployment/shop -n shop
  keyvault-csi check -f class.yaml --output json | jq '.[].steps[] | select(.status != "ok")'`,
		RunE: func(cmd *cobra.Command, args []string) error { return check(cmd, args, &f) },
	}
	f.register(c)
	return c
}

// checked is the result for one class.
type checked struct {
	Class  string `json:"class"`
	Origin string `json:"origin"`
	// OK is true if all steps are ok.
	OK       bool      `json:"ok"`
	Steps    []checkup `json:"steps"`
	Warnings []string  `json:"warnings,omitempty"`
}

// checkup is one step.
type checkup struct {
	// Step is class, identity, vault, object or templates.
	Step string `json:"step"`
	// Name is what was checked: a class, an identity, a host, <type>/<name>.
	Name   string `json:"name"`
	Status string `json:"status"`
	// Message is the result, or the problem and its fix.
	Message   string        `json:"message"`
	Reason    volume.Reason `json:"reason,omitempty"`
	RequestID string        `json:"requestID,omitempty"`
	// Way are the connection steps to a vault that succeeded.
	Way []provider.Step `json:"way,omitempty"`
}

// The statuses of a step without an error.
const (
	statusOK          = "ok"
	statusInvalid     = "invalid"
	statusExpired     = "expired"
	statusNotYetValid = "not-yet-valid"
	statusSkipped     = "skipped"
)

// notTried is the message of a skipped step.
const notTried = "not tried, because of the failure above"

// statusOf is the status of a step that failed for a reason.
func statusOf(reason volume.Reason) string {
	switch reason {
	case volume.ReasonInvalidClass, volume.ReasonInvalidRequest, volume.ReasonInvalidContent:
		return statusInvalid
	case volume.ReasonIdentity, volume.ReasonTokenExpired:
		return "refused"
	case volume.ReasonPermission:
		return "denied"
	case volume.ReasonFirewall:
		return "blocked"
	case volume.ReasonNotFound, volume.ReasonClassNotFound:
		return "missing"
	case volume.ReasonDisabled:
		return "disabled"
	case volume.ReasonThrottled:
		return "throttled"
	case volume.ReasonDNS, volume.ReasonProxy, volume.ReasonNetwork, volume.ReasonUnavailable:
		return "unreachable"
	case volume.ReasonNotReady, volume.ReasonFilesystem, volume.ReasonInternal:
	}
	return "failed"
}

func check(cmd *cobra.Command, names []string, f *checkFlags) error {
	if err := f.check(names); err != nil {
		return unusable{err}
	}
	if f.diagnoses() {
		return diagnose(cmd, f)
	}
	waiting := newProgress(cmd.ErrOrStderr())
	s, err := openSubjects(cmd.Context(), &f.subjectFlags, names, cmd.InOrStdin(), waiting)
	if err != nil {
		return err
	}
	defer s.provider.Close()
	what := "checking " + count(len(s.list), "class")
	if len(s.list) == 1 {
		what = "checking " + s.list[0].name()
	}
	waiting.beginMany(what, len(s.list))
	all := make([]checked, len(s.list))
	inspector := s.provider.Inspector()
	err = atOnce(len(s.list), func(i int) {
		all[i] = s.check(cmd.Context(), inspector, s.list[i], s.podOf(s.list[i].class), time.Now())
		waiting.did()
	})
	waiting.end()
	if err != nil {
		return err
	}
	for _, one := range all {
		stepsAsPlugin(cmd, one.Steps)
	}
	wrong := slices.ContainsFunc(all, func(c checked) bool { return !c.OK })
	if isTable(f.output) {
		err = printChecks(newPaper(cmd.OutOrStdout()), all, f.output == wideOutput)
	} else {
		err = printValue(cmd.OutOrStdout(), f.output, all)
	}
	if err == nil && wrong {
		err = ErrReported
	}
	return err
}

// mostAtOnce bounds how many classes are looked at at once. Vaults have limits of their own.
const mostAtOnce = 32

// atOnce calls work for 0 to n-1, some of them at once, and returns when all have returned. A panic does not stop the others, and is the error.
func atOnce(n int, work func(i int)) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	next := make(chan int)
	safely := func(i int) {
		defer func() {
			if p := recover(); p != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = &volume.Error{Reason: volume.ReasonInternal, Message: fmt.Sprintf("defect in this program (%T): report it with the command", p)}
			}
		}()
		work(i)
	}
	for range min(n, mostAtOnce) {
		group.Go(func() {
			for i := range next {
				safely(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return failed
}

func (s *subjects) check(ctx context.Context, inspector *provider.Inspector, one subject, pod podIdentity, now time.Time) (c checked) {
	c = checked{Class: one.name(), Origin: one.origin, Steps: []checkup{}}
	defer func() {
		c.OK = true
		for _, step := range c.Steps {
			c.OK = c.OK && step.Status == statusOK
		}
	}()
	for _, m := range one.mistakes {
		c.Steps = append(c.Steps, checkup{
			Step: "class", Name: one.name(), Status: statusInvalid, Reason: volume.ReasonInvalidClass,
			Message: fmt.Sprintf("%s:%d: %s", m.File, m.Line, m.Message),
		})
	}
	if len(one.mistakes) > 0 {
		return c
	}
	req, err := s.request(ctx, one.class, pod)
	if err != nil {
		c.Steps = append(c.Steps, wrongStep("identity", "service account "+req.Pod.ServiceAccount, err))
		return c
	}
	in, err := inspector.Inspect(ctx, req)
	if err != nil {
		c.Steps = append(c.Steps, wrongStep("class", one.name(), err))
		return c
	}
	c.Warnings = in.Warnings
	c.take(one, in, now)
	return c
}

// wrongStep is a step that failed.
func wrongStep(step, name string, err error) checkup {
	f := failed(err)
	return checkup{
		Step:      step,
		Name:      name,
		Status:    statusOf(f.Reason),
		Message:   f.Message,
		Reason:    f.Reason,
		RequestID: f.RequestID,
	}
}

// take adds the steps of an inspection.
func (c *checked) take(one subject, in *provider.Inspection, now time.Time) {
	c.Steps = append(c.Steps, checkup{
		Step: "class", Name: one.name(), Status: statusOK, Message: count(len(in.Objects), "object"),
	})
	who := checkup{Step: "identity", Name: in.Identity, Status: statusOK, Message: "token for " + in.Caller.String()}
	if in.IdentityErr != nil {
		name := in.Identity
		if name == "" {
			name = "from the class"
		}
		who = wrongStep("identity", name, in.IdentityErr)
	}
	c.Steps = append(c.Steps, who)
	for _, v := range in.Vaults {
		step := checkup{
			Step:    "vault",
			Name:    v.Host,
			Status:  statusOK,
			Message: "answers as a vault of tenant " + v.Tenant,
		}
		if v.Err != nil {
			step = wrongStep("vault", v.Host, v.Err)
		}
		step.Way = v.Steps
		c.Steps = append(c.Steps, step)
	}
	for _, o := range in.Objects {
		c.Steps = append(c.Steps, objectStep(o, now))
		for _, w := range o.Warnings {
			c.Warnings = append(c.Warnings, o.ID+": "+w)
		}
	}
	if len(in.Templates) > 0 {
		c.Steps = append(c.Steps, templatesStep(in))
	}
}

// templatesStep is the step of all templates.
func templatesStep(in *provider.Inspection) checkup {
	name := strings.Join(in.Templates[:min(3, len(in.Templates))], ", ")
	if len(in.Templates) > 3 {
		name += ", …"
	}
	switch {
	case in.TemplatesErr != nil:
		return wrongStep("templates", name, in.TemplatesErr)
	case in.TemplatesSkipped:
		return checkup{Step: "templates", Name: name, Status: statusSkipped, Message: notTried}
	}
	return checkup{Step: "templates", Name: name, Status: statusOK, Message: count(len(in.Templates), "file")}
}

// objectStep is the step of one object. An object that is expired or not yet valid is mounted nevertheless, but is a
// likely cause of problems.
func objectStep(o provider.ObjectInspection, now time.Time) checkup {
	if o.Err != nil {
		return wrongStep("object", o.ID, o.Err)
	}
	step := checkup{Step: "object", Name: o.ID, Status: statusOK}
	if o.Skipped {
		step.Status, step.Message = statusSkipped, notTried
		return step
	}
	step.Message = count(len(o.Versions), "version")
	for i, v := range o.Versions {
		if len(o.Versions) == 1 {
			step.Message = "version " + v.Version
		}
		if i > 0 {
			break // the newest is what counts
		}
		switch {
		case !v.NotBefore.IsZero() && now.Before(v.NotBefore):
			step.Status = statusNotYetValid
			step.Message += fmt.Sprintf(
				" is not valid before %s: it is mounted nevertheless; correct its activation date, or wait",
				v.NotBefore.UTC().Format(time.RFC3339),
			)
		case !v.Expires.IsZero() && !now.Before(v.Expires):
			step.Status = statusExpired
			step.Message += fmt.Sprintf(" expired at %s: it is mounted nevertheless; create a new version",
				v.Expires.UTC().Format(time.RFC3339))
		case !v.Expires.IsZero():
			step.Message += ", expires " + v.Expires.UTC().Format(time.RFC3339)
		}
	}
	return step
}

func printChecks(p *paper, all []checked, wide bool) error {
	good := 0
	for i, one := range all {
		if one.OK {
			good++
		}
		if i > 0 {
			p.line()
		}
		p.line(p.paint(one.Class, bold), p.paint("  ("+one.Origin+")", faint))
		p.line()
		rows := [][]cell{headings("STATUS", "STEP", "NAME")}
		notes := [][]string{nil}
		for _, s := range one.Steps {
			rows = append(rows, []cell{{text: s.Status, style: statusStyle(s.Status)}, {text: s.Step}, {text: s.Name}})
			notes = append(notes, stepNotes(s, wide || s.Status != statusOK || len(all) == 1))
		}
		p.tableWithNotes(rows, notes)
		for _, w := range one.Warnings {
			p.line(p.paint("warning", yellow), "  ", w)
		}
	}
	if len(all) > 1 {
		p.line()
		p.line(fmt.Sprintf("%s checked: %s, %s", count(len(all), "class"), p.paint(fmt.Sprintf("%d ok", good), green),
			p.paint(fmt.Sprintf("%d not ok", len(all)-good), map[bool]style{true: red}[good < len(all)])))
		for _, one := range all {
			if step := one.first(); step != nil {
				p.line("  ", p.paint(one.Class, bold), "  ", step.Step, " ", step.Name, ": ", p.paint(step.Message, red))
			}
		}
	}
	return p.err
}

// first is the first step that is not ok and was tried; nil where all are.
func (c *checked) first() *checkup {
	for i := range c.Steps {
		if s := &c.Steps[i]; s.Status != statusOK && s.Status != statusSkipped {
			return s
		}
	}
	return nil
}

// stepNotes are the lines below a step, with those of the connection if they are of interest.
func stepNotes(s checkup, way bool) []string {
	var lines []string
	for _, w := range s.Way {
		if !way {
			break
		}
		took := ""
		if w.Took > 0 {
			took = fmt.Sprintf(" (%s)", w.Took.Round(100*time.Microsecond))
		}
		lines = append(lines, strings.TrimSpace(w.Name+": "+w.Detail+took))
	}
	return append(lines, s.Message)
}

func statusStyle(status string) style {
	switch status {
	case statusOK:
		return green
	case statusSkipped:
		return faint
	case statusExpired, statusNotYetValid, "throttled":
		return yellow
	}
	return red
}
