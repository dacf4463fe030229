// Package v1 holds the types of secrets-store.csi.x-k8s.io/v1: what users write (SecretProviderClass) and what the
// driver answers (SecretProviderClassPodStatus). Names, fields and JSON are those that clusters hold today.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SecretProviderClass says which objects of which vault a pod volume holds, and as whom they are read.
//
// +kubebuilder:object:root=true
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SecretProviderClassSpec   `json:"spec,omitempty"`
	Status SecretProviderClassStatus `json:"status,omitempty"`
}

// SecretProviderClassSpec is what a user asks for.
type SecretProviderClassSpec struct {
	// Provider is the name of the secret store's provider: azure.
	Provider string `json:"provider,omitempty"`
	// Parameters configure the provider: keyvaultName, tenantID, clientID, objects and others.
	Parameters map[string]string `json:"parameters,omitempty"`
	// SecretObjects are Kubernetes Secrets to keep in step with the mounted files.
	SecretObjects []SecretObject `json:"secretObjects,omitempty"`
}

// SecretObject is one Kubernetes Secret that mirrors mounted files.
type SecretObject struct {
	// SecretName is the name of the Secret, in the pod's namespace.
	SecretName string `json:"secretName,omitempty"`
	// Type is the Secret's type, such as Opaque or kubernetes.io/tls.
	Type string `json:"type,omitempty"`
	// Labels are added to the Secret.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are added to the Secret.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Data maps mounted files to keys of the Secret.
	Data []SecretObjectData `json:"data,omitempty"`
}

// SecretObjectData is one key of a Secret.
type SecretObjectData struct {
	// ObjectName is the mounted file's path: the object's alias, else its name.
	ObjectName string `json:"objectName,omitempty"`
	// Key is the key in the Secret.
	Key string `json:"key,omitempty"`
}

// SecretProviderClassStatus is empty.
type SecretProviderClassStatus struct{}

// SecretProviderClassList is a list of classes.
//
// +kubebuilder:object:root=true
type SecretProviderClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretProviderClass `json:"items"`
}

// SecretProviderClassPodStatus says what is mounted in one pod from one class. The driver writes it.
//
// +kubebuilder:object:root=true
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status SecretProviderClassPodStatusStatus `json:"status,omitempty"`
}

// SecretProviderClassPodStatusStatus is what is mounted.
type SecretProviderClassPodStatusStatus struct {
	// PodName is the name of the pod.
	PodName string `json:"podName,omitempty"`
	// SecretProviderClassName is the name of the class.
	SecretProviderClassName string `json:"secretProviderClassName,omitempty"`
	// Mounted is true once the volume is complete.
	Mounted bool `json:"mounted,omitempty"`
	// TargetPath is where kubelet asked for the volume.
	TargetPath string `json:"targetPath,omitempty"`
	// Objects are the mounted objects and their versions, sorted by id.
	Objects []SecretProviderClassObject `json:"objects,omitempty"`
}

// SecretProviderClassObject is one mounted object.
type SecretProviderClassObject struct {
	// ID is the object's type and name, such as secret/db-password.
	ID string `json:"id,omitempty"`
	// Version is the version that is mounted.
	Version string `json:"version,omitempty"`
}

// SecretProviderClassPodStatusList is a list of status objects.
//
// +kubebuilder:object:root=true
type SecretProviderClassPodStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretProviderClassPodStatus `json:"items"`
}
