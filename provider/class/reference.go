package class

import (
	"slices"
	"strings"
)

// Place is where a field is written.
type Place string

// The places of fields.
const (
	// InParameters is spec.parameters, and the volumeAttributes of a Pod.
	InParameters Place = "parameters"
	// InObject is an item of the parameter objects.
	InObject Place = "objects"
	// InSelector is the mapping objectSelector of an object.
	InSelector Place = "objectSelector"
	// InField is an item of the list jmesPath of an object.
	InField Place = "jmesPath"
	// InTemplate is an item of the parameter templates.
	InTemplate Place = "templates"
)

// Section groups the parameters of a class in the documentation.
type Section string

// The sections of parameters.
const (
	SectionVault     Section = "vault"
	SectionIdentity  Section = "identity"
	SectionFreshness Section = "freshness"
	SectionFiles     Section = "files"
)

// Field is one name that a class may hold.
type Field struct {
	Name  string
	Place Place
	// Section is set for parameters.
	Section Section
	// Type is what the text must be: text, boolean, whole number, duration, file mode, id, list, mapping, YAML.
	Type string
	// Default is what counts where it is left out, in Markdown; empty where there is none.
	Default string
	// Since is the version of the driver that has it first.
	Since string
	// Meaning is one paragraph of Markdown.
	Meaning string
}

const v010 = "0.1"

// Fields returns the names that may be written at a place.
func Fields(at Place) []string {
	var names []string
	for _, f := range Reference() {
		if f.Place == at {
			names = append(names, f.Name)
		}
	}
	return names
}

// Parameters returns the names of all parameters that a class may hold.
func Parameters() []string { return Fields(InParameters) }

// Find returns the fields of a name at any place; upper and lower case are the same.
func Find(name string) []Field {
	return slices.DeleteFunc(Reference(), func(f Field) bool { return !strings.EqualFold(f.Name, name) })
}

// Reference returns all fields of a class, in the order of the documentation. The documentation's tables, the admission policies and
// keyvault-csi explain are made from it, and the parser knows no other names.
func Reference() []Field {
	return slices.Concat(
		parameters(SectionVault, vaultParameters()),
		parameters(SectionIdentity, identityParameters()),
		parameters(SectionFreshness, freshnessParameters()),
		parameters(SectionFiles, fileParameters()),
		at(InObject, objectFields()),
		at(InSelector, selectorFields()),
		at(InField, entryFields()),
		at(InTemplate, templateFields()),
	)
}

func parameters(section Section, fields []Field) []Field {
	for i := range fields {
		fields[i].Section = section
	}
	return at(InParameters, fields)
}

func at(place Place, fields []Field) []Field {
	for i := range fields {
		fields[i].Place = place
	}
	return fields
}
