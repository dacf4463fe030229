package secretsync

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Desired is a Secret as one class asks for it.
type Desired struct {
	Namespace, Name string
	// Type is never empty.
	Type string
	// Labels and Annotations are those that the class asks for. The ownership label and the record are added.
	Labels, Annotations map[string]string
	// Data is nil where only owners are to be added: the values are not fresh enough to be written.
	Data map[string][]byte
	// CreateOnly is true where the data may make a Secret that does not exist, and is not fit to replace any: of one that exists, only
	// owners are added.
	CreateOnly bool
	// Hash changes when anything above changes. It is compared within this process only.
	Hash [32]byte

	Writer Writer
	Class  Class
	// Attributes are those of the Pod that the values are for; zero where there is no Pod.
	Attributes Attributes
	// Sources are what the data was made from.
	Sources []Source

	Owners      []metav1.OwnerReference
	OwnerPolicy OwnerPolicy
}

// ownersAlone reports whether the values are not fit to replace those of a Secret that exists.
func (d *Desired) ownersAlone() bool { return d.Data == nil || d.CreateOnly }

// String names the Secret. It hides the data.
func (d *Desired) String() string { return "Secret " + d.Namespace + "/" + d.Name }

// GoString hides the data from %#v.
func (d *Desired) GoString() string { return d.String() }

// Writer is in whose name Secrets are written.
type Writer struct {
	// FieldManager is the prefix of field managers. Each class has one of its own: the prefix, a slash and the class's
	// name. Where Alone is true, one class alone writes the Secret, and the field manager is the prefix.
	FieldManager string
	Alone        bool
	// Label and LabelValue mark the Secrets that may be written.
	Label, LabelValue string
	// Record is the prefix of the annotations that hold records.
	Record string
	// Predecessor is the field manager of a tool that wrote the same Secrets by update. Its keys are taken over. May be
	// empty.
	Predecessor string
}

// Class is the version of the class that the Secret comes from.
type Class struct {
	Name       string
	UID        types.UID
	Generation int64
}

// Attributes tell Pods apart that use one class with volume attributes of their own, which change what is fetched.
type Attributes struct {
	// Hash is empty where there are none.
	Hash string
	// Created is when the youngest Pod with these attributes was created, by the API server's clock.
	Created time.Time
}

// Source is one answer of a vault that the data was made from. An object that does not exist is a source without a
// version.
type Source struct {
	// ID names the object and the vault. It is part of the record.
	ID string
	// Date is when the vault answered, by its own clock, in whole seconds. Zero where it did not say.
	Date time.Time
	// Version is what the vault answered with; empty for a list of versions, or where the object does not exist.
	Version string
}

// OwnerPolicy is what becomes of the Secret's owners.
type OwnerPolicy int

const (
	// AddOwners adds the owners that are missing and keeps all others.
	AddOwners OwnerPolicy = iota
	// ExactOwners makes the owners of the class's field manager those of Desired.
	ExactOwners
)
