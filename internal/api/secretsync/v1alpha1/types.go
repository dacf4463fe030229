// Package v1alpha1 holds the types of secret-sync.x-k8s.io/v1alpha1: a Kubernetes Secret that is kept in step with a vault without a Pod.
// Names, fields, rules and JSON are those of the Secrets Store Sync Controller, whose objects are valid here.
//
// +kubebuilder:object:generate=true
// +groupName=secret-sync.x-k8s.io
// +versionName=v1alpha1
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of the types in this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: "secret-sync.x-k8s.io", Version: "v1alpha1"}
}

// AddToScheme adds the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(), &SecretSync{}, &SecretSyncList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}

// A SecretSync makes a Kubernetes Secret of its own name, in its own namespace, from the objects of a SecretProviderClass, and keeps it in
// step with the vault. No Pod has to mount the class.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=secretsyncs,scope=Namespaced
// +kubebuilder:metadata:annotations="helm.sh/resource-policy=keep"
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.secretProviderClassName`,description="The class whose objects are synced"
// +kubebuilder:printcolumn:name="Account",type=string,JSONPath=`.spec.serviceAccountName`,description="The service account that proves the identity"
// +kubebuilder:printcolumn:name="Synced",type=date,JSONPath=`.status.lastSuccessfulSyncTime`,description="When the Secret was last seen to hold what the vault holds"
// +kubebuilder:printcolumn:name="Updated",type=string,JSONPath=`.status.conditions[?(@.type=="SecretUpdated")].reason`,description="What came of the last sync",priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretSync struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what a user asks for.
	Spec SecretSyncSpec `json:"spec,omitempty"`
	// Status is what the controller answers.
	Status SecretSyncStatus `json:"status,omitempty"`
}

// SecretSyncSpec is what a user asks for.
type SecretSyncSpec struct {
	// SecretSyncControllerName names the controller that serves the object; empty is the default one.
	//
	// +kubebuilder:default:=""
	// +optional
	SecretSyncControllerName string `json:"secretSyncControllerName"`
	// SecretProviderClassName is the name of a SecretProviderClass in the same namespace.
	//
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	SecretProviderClassName string `json:"secretProviderClassName"`
	// ServiceAccountName is the name of a ServiceAccount in the same namespace. A token of it proves the identity to the vault.
	//
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`
	ServiceAccountName string `json:"serviceAccountName"`
	// SecretObject is the Secret.
	//
	// +kubebuilder:validation:Required
	SecretObject SecretObject `json:"secretObject"`
	// ForceSynchronization asks for a sync now each time that its value changes.
	//
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?$`
	// +optional
	ForceSynchronization string `json:"forceSynchronization,omitempty"`
}

// SecretObject is the Secret that a SecretSync makes.
type SecretObject struct {
	// Type is the Secret's type.
	//
	// +kubebuilder:default:=Opaque
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Type string `json:"type"`
	// Data maps files that the class would mount to keys of the Secret.
	//
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinItems=1
	// +listType=map
	// +listMapKey=targetKey
	Data []SecretObjectData `json:"data"`
	// Labels are added to the Secret.
	//
	// +kubebuilder:validation:XValidation:rule="self.all(x, x.size() <= 317 && self[x].size() <= 63)",message="Label keys must not exceed 317 characters (254 for prefix+separator, 63 for name), label values must not exceed 63 characters."
	// +kubebuilder:validation:XValidation:rule="self.all(x, x.startsWith('secrets-store.sync.x-k8s.io') == false)",message="Labels should not contain secrets-store.sync.x-k8s.io. This key is reserved for the controller."
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are added to the Secret.
	//
	// +kubebuilder:validation:XValidation:rule="self.all(x, x.size() <= 317 && self[x].size() <= 262144)",message="Annotations keys must not exceed 317 characters (254 for prefix+separator, 63 for name), annotation values must not exceed 256 kB."
	// +kubebuilder:validation:XValidation:rule="self.all(x, x.startsWith('secrets-store.sync.x-k8s.io') == false)",message="Annotations should not contain secrets-store.sync.x-k8s.io. This key is reserved for the controller."
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// SecretObjectData is one key of the Secret.
type SecretObjectData struct {
	// SourcePath is the path of a file that the class would mount: the object's alias, else its name.
	//
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?(\/([0-9]+))*$`
	SourcePath string `json:"sourcePath"`
	// TargetKey is the key in the Secret.
	//
	// +kubebuilder:validation:Required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9.]([-A-Za-z0-9]+([-._a-zA-Z0-9]?[A-Za-z0-9])*)?(\/([0-9]+))*$`
	TargetKey string `json:"targetKey"`
}

// SecretSyncStatus is what the controller answers.
type SecretSyncStatus struct {
	// SyncHash changes when what the Secret was made from changes. It does not tell values.
	//
	// +optional
	SyncHash string `json:"syncHash,omitempty"`
	// LastSuccessfulSyncTime is when the Secret was last seen to hold what the vault holds.
	//
	// +optional
	LastSuccessfulSyncTime *metav1.Time `json:"lastSuccessfulSyncTime,omitempty"`
	// Conditions are SecretCreated and SecretUpdated.
	//
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SecretSyncList is a list of SecretSyncs.
//
// +kubebuilder:object:root=true
type SecretSyncList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretSync `json:"items"`
}
