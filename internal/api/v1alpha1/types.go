// Package v1alpha1 holds the types of secrets-store.csi.x-k8s.io/v1alpha1, which is deprecated and still served: objects
// are stored as v1 and differ from it in one status field that is not written. The schemas of the CRDs are made from it; the
// driver itself speaks v1.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
// +versionName=v1alpha1
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// A SecretProviderClass says which secrets, keys and certificates of which Azure Key Vault a pod volume holds, and as
// whom they are read. This version is deprecated: write apiVersion secrets-store.csi.x-k8s.io/v1.
//
// +kubebuilder:object:root=true
// +kubebuilder:deprecatedversion:warning="secrets-store.csi.x-k8s.io/v1alpha1 is deprecated: use secrets-store.csi.x-k8s.io/v1"
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what a user asks for.
	Spec v1.SecretProviderClassSpec `json:"spec,omitempty"`
	// Status is not written by anybody.
	Status SecretProviderClassStatus `json:"status,omitempty"`
}

// SecretProviderClassStatus is not written by anybody.
type SecretProviderClassStatus struct {
	// ByPod is not written by anybody.
	ByPod []ByPodStatus `json:"byPod,omitempty"`
}

// ByPodStatus is not written by anybody.
type ByPodStatus struct {
	// ID is not written by anybody.
	ID string `json:"id,omitempty"`
	// Namespace is not written by anybody.
	Namespace string `json:"namespace,omitempty"`
}

// A SecretProviderClassPodStatus says what is mounted in one pod from one class. This version is deprecated: read
// apiVersion secrets-store.csi.x-k8s.io/v1.
//
// +kubebuilder:object:root=true
// +kubebuilder:deprecatedversion:warning="secrets-store.csi.x-k8s.io/v1alpha1 is deprecated: use secrets-store.csi.x-k8s.io/v1"
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what is mounted.
	Status v1.SecretProviderClassPodStatusStatus `json:"status,omitempty"`
}
