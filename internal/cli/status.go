package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodestatus"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/version"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

func newStatusCommand(build version.Build) *cobra.Command {
	var addr, output string
	f := clusterFlags{build: build}
	c := &cobra.Command{
		Use:   "status",
		Short: "Show volumes, values' ages and errors of the cluster, or of the driver on this node",
		Long: `status connects to the driver on this node, over its loopback admin address, and shows its volumes with
their pods, classes, identities and object versions, how old the values are, when the next refresh is,
the last failures, and the limiter of each vault and identity service. It shows no secret value.

With -A, -n, --object or --expiring it shows the cluster instead, from the status objects, SecretSyncs,
Pods and events that the caller may list: what fails, waits, is stale or is about to expire comes first.
As a plugin of kubectl it shows the context's namespace where none of these is set.`,
		Example: `  keyvault-csi status -A
  keyvault-csi status -n shop --watch
  keyvault-csi status --object contoso/secret/db-password
  keyvault-csi status --expiring 30d
  kubectl -n kube-system exec keyvault-csi-x7k2p -- keyvault-csi status
  keyvault-csi status --output json | jq '.volumes[] | select(.error)'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			atNode := cmd.Flags().Changed("admin-addr")
			within, err := f.check(f.asked() && atNode)
			if err := errors.Join(err, checkOutput(output, formats()...)); err != nil {
				return err
			}
			if f.asked() || isPlugin(cmd) && !atNode {
				return f.run(cmd, output, within)
			}
			text, err := admin.Ask(cmd.Context(), addr, http.MethodGet, admin.StatusPath, "")
			if err != nil {
				return err
			}
			var s admin.NodeStatus
			if err := json.Unmarshal(text, &s); err != nil {
				return fmt.Errorf("the answer on %s is not a status: does another program listen there? %w", addr, err)
			}
			if isTable(output) {
				return printStatus(cmd.OutOrStdout(), &s)
			}
			return printValue(cmd.OutOrStdout(), output, s)
		},
	}
	c.Flags().StringVar(&addr, "admin-addr", admin.DefaultAddress, "`address` of the driver's --admin-addr")
	c.Flags().StringVarP(&output, "output", "o", tableOutput, "output `format`: table, wide, json or yaml")
	CompleteFlag(c, "output", formats()...)
	f.register(c)
	return c
}

// printStatus prints the status as tables.
func printStatus(w io.Writer, s *admin.NodeStatus) error {
	p := newPaper(w)
	state, look := "ready", green
	if !s.Ready {
		state, look = "not ready: "+s.NotReady, red
	}
	p.line(fmt.Sprintf("%s %s on %s, up %s, ", s.Driver, s.Version, s.Node, span(s.Time.Sub(s.Started))),
		p.paint(state, look))
	p.line()
	rows := [][]cell{headings("POD", "CLASS", "OBJECTS", "AGE", "NEXT", "STATE", "IDENTITY")}
	notes := [][]string{nil}
	for _, v := range s.Volumes {
		state, look := volumeState(&v)
		rows = append(rows, []cell{
			{text: v.Namespace + "/" + v.Pod},
			{text: v.Class},
			{text: strconv.Itoa(len(v.Objects)), right: true},
			{
				text: since(s.Time, v.FetchedAt),
			},
			{text: next(s.Time, &v)},
			{text: state, style: look},
			{text: v.Identity},
		})
		var below []string
		if v.Error != "" {
			below = append(below, p.paint(v.Error, red))
		}
		if len(v.MountLacks) > 0 {
			line := "mounted by another driver: without " + strings.Join(v.MountLacks, ", ") + " until the Pod is replaced"
			below = append(below, p.paint(line, yellow))
		}
		if v.Fallback != "" {
			below = append(below, p.paint("values of the fallback vault "+v.Fallback, yellow))
		}
		if v.ChangeDetection != "" {
			below = append(below, p.paint("change detection: "+string(v.ChangeDetection), faint))
		}
		for _, o := range v.Objects {
			line := fmt.Sprintf("%s  %s %s from %s", o.Path, o.Object, cmp.Or(o.Version, "(no version)"), o.Vault)
			if !o.Expires.IsZero() {
				line += ", expires " + o.Expires.UTC().Format(time.RFC3339)
			}
			below = append(below, p.paint(line, faint))
		}
		notes = append(notes, below)
	}
	p.tableWithNotes(rows, notes)
	printHosts(p, s)
	printTroubles(p, s)
	if p.err != nil {
		return fmt.Errorf("output: %w", p.err)
	}
	return nil
}

func printHosts(p *paper, s *admin.NodeStatus) {
	if len(s.Hosts) == 0 {
		return
	}
	p.line()
	rows := [][]cell{headings("HOST", "REQUESTS/S", "IN FLIGHT", "WAITING", "THROTTLED", "STATE")}
	limiters := make([]limiter.Snapshot, 0, len(s.Hosts))
	for _, h := range s.Hosts {
		limiters = append(append(limiters, h), h.Quotas...)
	}
	for _, h := range limiters {
		name, rate := h.Host, "-"
		if h.Quota != "" {
			name = "  " + h.Quota
		}
		if h.Rate > 0 {
			rate = strconv.FormatFloat(h.Rate, 'f', 1, 64)
		}
		state, look := "open", green
		if !h.NotBefore.IsZero() {
			state, look = "closed for "+span(h.NotBefore.Sub(s.Time)), yellow
		}
		if h.Open {
			state, look = "not answering; "+state, red
		}
		rows = append(rows, []cell{
			{text: name}, {text: rate, right: true}, {text: strconv.Itoa(h.InFlight), right: true},
			{text: strconv.Itoa(h.Waiting), right: true}, {text: strconv.FormatUint(h.Throttled, 10), right: true},
			{text: state, style: look},
		})
	}
	p.table(rows)
}

func printTroubles(p *paper, s *admin.NodeStatus) {
	if len(s.Troubles) == 0 {
		return
	}
	p.line()
	rows := [][]cell{headings("LAST", "COUNT", "POD", "EVENT", "REASON")}
	notes := [][]string{nil}
	for _, t := range s.Troubles {
		rows = append(rows, []cell{
			{
				text: since(s.Time, t.Last),
			},
			{text: strconv.Itoa(t.Count), right: true},
			{text: t.Namespace + "/" + t.Pod},
			{text: string(t.Kind)},
			{text: string(t.Reason)},
		})
		notes = append(notes, []string{t.Message})
	}
	p.tableWithNotes(rows, notes)
}

func volumeState(v *nodestatus.Volume) (string, style) {
	switch {
	case v.Reason != "":
		return string(v.Reason), red
	case v.Stale:
		return "stale", yellow
	case v.Fallback != "":
		return "fallback", yellow
	case v.FetchedAt.IsZero():
		return "adopted", plain
	}
	return "fresh", green
}

func next(now time.Time, v *nodestatus.Volume) string {
	switch {
	case v.Refreshing:
		return "now"
	case v.NextRefresh.IsZero():
		return "never"
	}
	return "in " + span(max(0, v.NextRefresh.Sub(now)))
}

func since(now, at time.Time) string {
	if at.IsZero() {
		return "unknown"
	}
	return span(now.Sub(at))
}

// span formats a duration in whole seconds.
func span(d time.Duration) string { return d.Round(time.Second).String() }
