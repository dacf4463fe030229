package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/cli/classfile"
)

// The formats of findings beside text and JSON.
const (
	sarifOutput  = "sarif"
	githubOutput = "github"
)

// findingFormats are those of findings.
func findingFormats() []string {
	return []string{textOutput, tableOutput, wideOutput, jsonOutput, yamlOutput, sarifOutput, githubOutput}
}

// printFindings prints findings in a format.
func printFindings(w io.Writer, format, version string, findings []classfile.Finding) error {
	switch format {
	case jsonOutput, yamlOutput:
		return printValue(w, format, findings)
	case sarifOutput:
		return printValue(w, jsonOutput, sarifOf(version, findings))
	}
	p := newPaper(w)
	for _, f := range findings {
		if format == githubOutput {
			p.line(annotation(f))
			continue
		}
		p.line(p.finding(f))
	}
	if p.err != nil {
		return fmt.Errorf("output: %w", p.err)
	}
	return nil
}

// finding is a finding as one line, with a color for its severity on a terminal.
func (p *paper) finding(f classfile.Finding) string {
	looks := map[classfile.Severity]style{classfile.Error: red, classfile.Warning: yellow, classfile.Note: faint}
	text := ": " + string(f.Severity) + ": "
	return strings.Replace(f.String(), text, ": "+p.paint(string(f.Severity), looks[f.Severity])+": ", 1)
}

// annotation is a finding as a workflow command of GitHub Actions, which shows it beside the line of a pull request.
func annotation(f classfile.Finding) string {
	command := map[classfile.Severity]string{classfile.Error: "error", classfile.Warning: "warning", classfile.Note: "notice"}[f.Severity]
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	text, place := f.Message, ""
	if who := f.Subject(); who != "" {
		text = who + ": " + text
	}
	if f.File != "" && f.File != "<stdin>" {
		place = fmt.Sprintf("file=%s,line=%d,", property.Replace(filepath.ToSlash(f.File)), f.Line)
	}
	return fmt.Sprintf("::%s %stitle=%s::%s", command, place, property.Replace("keyvault-csi validate: "+f.Rule), data.Replace(text))
}

// sarif is the part of a SARIF 2.1.0 log that is used (https://docs.oasis-open.org/sarif/sarif/v2.1.0/).
type sarif struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver sarifDriver `json:"driver"`
	} `json:"tool"`
	Results []sarifResult `json:"results"`
}

type sarifDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version,omitempty"`
	InformationURI string      `json:"informationUri"`
	Rules          []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID               string    `json:"id"`
	ShortDescription sarifText `json:"shortDescription"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifResult struct {
	RuleID    string          `json:"ruleId"`
	Level     string          `json:"level"`
	Message   sarifText       `json:"message"`
	Locations []sarifLocation `json:"locations"`
}

type sarifLocation struct {
	Physical *sarifPhysical `json:"physicalLocation,omitempty"`
	Logical  []sarifLogical `json:"logicalLocations,omitempty"`
}

type sarifPhysical struct {
	Artifact struct {
		URI string `json:"uri"`
	} `json:"artifactLocation"`
	Region struct {
		StartLine int `json:"startLine"`
	} `json:"region"`
}

type sarifLogical struct {
	Name string `json:"fullyQualifiedName"`
}

// sarifRules are the rules with what they are about.
func sarifRules() []sarifRule {
	rule := func(id, text string) sarifRule { return sarifRule{ID: id, ShortDescription: sarifText{Text: text}} }
	return []sarifRule{
		rule(classfile.RuleYAML, "The file is not YAML."),
		rule(classfile.RuleKubernetes, "The object is not one that the API server accepts."),
		rule(classfile.RuleUnknownField, "A field has no effect, and is probably misspelt."),
		rule(classfile.RuleDuplicate, "Something is written twice."),
		rule(classfile.RuleParameter, "A parameter of a SecretProviderClass is wrong."),
		rule(classfile.RuleObject, "An object of a SecretProviderClass is wrong."),
		rule(classfile.RuleSecretObject, "A Kubernetes Secret that a class makes is wrong."),
		rule(classfile.RuleWorkload, "A volume of a workload is wrong."),
		rule(classfile.RuleReference, "A workload names a class, a Secret or an identity that does not fit."),
	}
}

func sarifOf(version string, findings []classfile.Finding) sarif {
	run := sarifRun{Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{
		Name: "keyvault-csi validate", Version: version, InformationURI: "https://github.com/keyvault-csi/keyvault-csi-driver", Rules: sarifRules(),
	}
	for _, f := range findings {
		r := sarifResult{RuleID: f.Rule, Level: string(f.Severity), Message: sarifText{Text: f.Message}}
		var at sarifLocation
		if f.File != "" {
			at.Physical = &sarifPhysical{}
			at.Physical.Artifact.URI, at.Physical.Region.StartLine = filepath.ToSlash(f.File), f.Line
		}
		if who := f.Subject(); who != "" {
			at.Logical = []sarifLogical{{Name: who}}
			r.Message.Text = who + ": " + f.Message
		}
		r.Locations = []sarifLocation{at}
		run.Results = append(run.Results, r)
	}
	return sarif{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}
