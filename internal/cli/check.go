package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider"
)

func newCheckCommand(build Build) *cobra.Command {
	f := subjectFlags{build: build}
	c := &cobra.Command{
		Use:   "check [-f FILE...] [NAMESPACE/NAME...]",
		Short: "Find what keeps a pod from its secrets: class, identity, network, permission per object",
		Long: `check goes the way from a SecretProviderClass to its files step by step, and goes on after a failure:
the class's mistakes; the identity's token and for whom it is; for each vault name resolution,
connection, TLS and tenant; and each object by itself. What is wrong is said with its fix. No value is
printed. Classes come from files, or by name from the cluster.

It asks as you: with the AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET variables, the identity
of this machine, or who is logged in with the Azure tools (az login). With --service-account it asks as
the pods of that service account: the API server is asked for a token with your own rights (create
serviceaccounts/token). With --node-publish-secret-file it asks as the service principal of that
Secret, with --as-class as the class says.

It exits with 1 if anything is wrong.

The statuses are ok, invalid (the class, or content that cannot become the file), refused (no token),
denied (no permission), blocked (the vault's network rules), missing, disabled, expired,
not-yet-valid, unreachable, throttled, failed, and skipped (not asked, because of an earlier failure).`,
		Example: `  az login && keyvault-csi check -f class.yaml
  keyvault-csi check default/shop --service-account shop
  keyvault-csi check -f class.yaml --output json | jq '.[].steps[] | select(.status != "ok")'`,
		RunE: func(cmd *cobra.Command, args []string) error { return check(cmd, args, &f) },
	}
	f.register(c.Flags())
	f.complete(c)
	return c
}

// checked is what was found about one class.
type checked struct {
	Class  string `json:"class"`
	Origin string `json:"origin"`
	// OK is true where nothing is wrong.
	OK       bool      `json:"ok"`
	Steps    []checkup `json:"steps"`
	Warnings []string  `json:"warnings,omitempty"`
}

// checkup is one step of the way.
type checkup struct {
	// Step is class, identity, vault or object.
	Step string `json:"step"`
	// Name is what was looked at: a class, an identity, a host, <type>/<name>.
	Name   string `json:"name"`
	Status string `json:"status"`
	// Message is what was found, or what is wrong and the fix.
	Message   string        `json:"message"`
	Reason    volume.Reason `json:"reason,omitempty"`
	RequestID string        `json:"requestID,omitempty"`
	// Way are the steps that worked on the way to a vault.
	Way []provider.Step `json:"way,omitempty"`
}

// The statuses of a step that are no error's.
const (
	statusOK          = "ok"
	statusInvalid     = "invalid"
	statusExpired     = "expired"
	statusNotYetValid = "not-yet-valid"
	statusSkipped     = "skipped"
)

// statusOf says in a word what an error means for a step.
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

func check(cmd *cobra.Command, names []string, f *subjectFlags) error {
	waiting := newProgress(cmd.ErrOrStderr())
	s, err := openSubjects(cmd.Context(), f, names, cmd.InOrStdin(), waiting)
	if err != nil {
		return err
	}
	defer s.provider.Close()
	all, wrong := make([]checked, 0, len(s.list)), false
	for _, one := range s.list {
		waiting.begin("checking " + one.name())
		c := s.check(cmd.Context(), one, time.Now())
		wrong = wrong || !c.OK
		all = append(all, c)
	}
	waiting.end()
	if f.output != tableOutput {
		err = printValue(cmd.OutOrStdout(), f.output, all)
	} else {
		err = printChecks(newPaper(cmd.OutOrStdout()), all)
	}
	if err == nil && wrong {
		err = ErrReported
	}
	return err
}

func (s *subjects) check(ctx context.Context, one subject, now time.Time) (c checked) {
	c = checked{Class: one.name(), Origin: one.origin}
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
	req, err := s.request(ctx, one.class)
	if err != nil {
		c.Steps = append(c.Steps, wrongStep("identity", "service account "+req.Pod.ServiceAccount, err))
		return c
	}
	in, err := s.provider.Inspect(ctx, req)
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
	return checkup{Step: step, Name: name, Status: statusOf(f.Reason), Message: f.Message, Reason: f.Reason, RequestID: f.RequestID}
}

// take makes the steps of what was found.
func (c *checked) take(one subject, in *provider.Inspection, now time.Time) {
	c.Steps = append(c.Steps, checkup{
		Step: "class", Name: one.name(), Status: statusOK, Message: fmt.Sprintf("%d objects", len(in.Objects)),
	})
	who := checkup{Step: "identity", Name: in.Identity, Status: statusOK, Message: "token for " + in.Caller.String()}
	if in.IdentityErr != nil {
		name := in.Identity
		if name == "" {
			name = "as the class says"
		}
		who = wrongStep("identity", name, in.IdentityErr)
	}
	c.Steps = append(c.Steps, who)
	for _, v := range in.Vaults {
		step := checkup{Step: "vault", Name: v.Host, Status: statusOK, Message: "answers as a vault of tenant " + v.Tenant}
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
}

// objectStep judges one object. One outside its own time is delivered all the same, but it is what people look for.
func objectStep(o provider.ObjectInspection, now time.Time) checkup {
	if o.Err != nil {
		return wrongStep("object", o.ID, o.Err)
	}
	step := checkup{Step: "object", Name: o.ID, Status: statusOK}
	if o.Skipped {
		step.Status, step.Message = statusSkipped, "not asked, because of what is wrong above"
		return step
	}
	step.Message = fmt.Sprintf("%d versions", len(o.Versions))
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
			step.Message += fmt.Sprintf(" is valid only from %s on: it is mounted all the same; correct its activation date, or wait",
				v.NotBefore.UTC().Format(time.RFC3339))
		case !v.Expires.IsZero() && !now.Before(v.Expires):
			step.Status = statusExpired
			step.Message += fmt.Sprintf(" expired at %s: it is mounted all the same; make a new version", v.Expires.UTC().Format(time.RFC3339))
		case !v.Expires.IsZero():
			step.Message += ", expires " + v.Expires.UTC().Format(time.RFC3339)
		}
	}
	return step
}

func printChecks(p *paper, all []checked) error {
	for i, one := range all {
		if i > 0 {
			p.line()
		}
		p.line(p.paint(one.Class, bold), p.paint("  ("+one.Origin+")", faint))
		p.line()
		rows := [][]cell{headings("STATUS", "STEP", "NAME")}
		notes := [][]string{nil}
		for _, s := range one.Steps {
			rows = append(rows, []cell{{text: s.Status, style: statusStyle(s.Status)}, {text: s.Step}, {text: s.Name}})
			notes = append(notes, stepNotes(s))
		}
		p.tableWithNotes(rows, notes)
		for _, w := range one.Warnings {
			p.line(p.paint("warning", yellow), "  ", w)
		}
	}
	return p.err
}

// stepNotes are the lines below a step.
func stepNotes(s checkup) []string {
	var lines []string
	for _, w := range s.Way {
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
