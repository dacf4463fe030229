// Package v1 holds the types of secrets-store.csi.x-k8s.io/v1: what users write (SecretProviderClass) and what the
// driver answers (SecretProviderClassPodStatus). Names, fields and JSON are those that clusters hold today; nothing is
// required and nothing is restricted, so that every object that exists stays valid.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
// +versionName=v1
package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// A SecretProviderClass says which secrets, keys and certificates of which Azure Key Vault a pod volume holds, and as
// whom they are read. A pod in the same namespace names it in its csi volume, in volumeAttributes.secretProviderClass.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:metadata:annotations="helm.sh/resource-policy=keep"
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`,description="The provider that serves the class"
// +kubebuilder:printcolumn:name="Vault",type=string,JSONPath=`.spec.parameters.keyvaultName`,description="The vault of objects that name none of their own"
// +kubebuilder:printcolumn:name="Client",type=string,JSONPath=`.spec.parameters.clientID`,description="The client id that asks the vault",priority=1
// +kubebuilder:printcolumn:name="Tenant",type=string,JSONPath=`.spec.parameters.tenantID`,description="The Entra ID tenant",priority=1
// +kubebuilder:printcolumn:name="Interval",type=string,JSONPath=`.spec.parameters.rotationInterval`,description="How often what is mounted is refreshed, where the class says so",priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what a user asks for.
	Spec SecretProviderClassSpec `json:"spec,omitempty"`
	// Status is empty. SecretProviderClassPodStatus objects say what is mounted where, one for each Pod.
	Status SecretProviderClassStatus `json:"status,omitempty"`
}

// SecretProviderClassSpec is what a user asks for.
type SecretProviderClassSpec struct {
	// Provider is the name of the secret store's provider: azure. Classes of other providers are left to other drivers.
	Provider string `json:"provider,omitempty"`
	// Parameters configure the provider; all values are strings. The most used are keyvaultName (the vault), tenantID,
	// clientID (workload identity), useVMManagedIdentity with userAssignedIdentityID (managed identity), rotationInterval,
	// and objects: YAML text with the key array, whose items are strings that hold objectName, objectType (secret, key or
	// cert), objectAlias (the file's path), objectVersion, filePermission and others. A pod's volumeAttributes go over
	// parameters of the same name. `keyvault-csi validate` checks them.
	Parameters map[string]string `json:"parameters,omitempty"`
	// SecretObjects are Kubernetes Secrets to keep in step with the mounted files, where the driver runs with
	// --sync-secrets. They are written when a pod mounts the class and removed with the last owner of such pods.
	SecretObjects []SecretObject `json:"secretObjects,omitempty"`
}

// RotateAtAnnotation on a class makes every node refresh the class's volumes at the time that it holds (RFC 3339), or at once where
// that is past. The controller syncs the class's SecretSyncs when it changes.
const RotateAtAnnotation = "keyvault-csi/rotate-at"

// RefreshAnnotation on a class makes every node refresh the class's volumes when it changes, also where the nodes' clocks differ: its
// value is a schedule.Request. The controller syncs the class's SecretSyncs when it changes.
const RefreshAnnotation = "keyvault-csi/refresh"

// SecretObject is one Kubernetes Secret that mirrors mounted files.
type SecretObject struct {
	// SecretName is the name of the Secret, in the pod's namespace. A Secret of that name which the driver did not make is
	// never touched.
	SecretName string `json:"secretName,omitempty"`
	// Type is the Secret's type, such as Opaque, kubernetes.io/tls or kubernetes.io/dockerconfigjson; Opaque where empty.
	Type string `json:"type,omitempty"`
	// Labels are added to the Secret.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are added to the Secret.
	Annotations map[string]string `json:"annotations,omitempty"`
	// Data maps mounted files to keys of the Secret. Where it is left out every mounted file becomes a key.
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

// A SecretProviderClassPodStatus says what is mounted in one pod from one class. The driver writes it; people and tools
// read it. It goes with its pod. Annotations tell of the last success (keyvault-csi/last-success), of refreshes that fail
// (keyvault-csi/failing-since, failure-reason and failure) and of last known good content (keyvault-csi/stale-since).
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:metadata:annotations="helm.sh/resource-policy=keep"
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.podName`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.status.secretProviderClassName`
// +kubebuilder:printcolumn:name="Mounted",type=boolean,JSONPath=`.status.mounted`
// +kubebuilder:printcolumn:name="Failure",type=string,JSONPath=`.metadata.annotations.keyvault-csi/failure-reason`,description="Why refreshes fail now; empty where they do not"
// +kubebuilder:printcolumn:name="Failing",type=date,JSONPath=`.metadata.annotations.keyvault-csi/failing-since`,description="How long refreshes have failed"
// +kubebuilder:printcolumn:name="Stale",type=date,JSONPath=`.metadata.annotations.keyvault-csi/stale-since`,description="How old the content is, where the pod started from last known good values"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.metadata.annotations.keyvault-csi/failure`,description="What failed, and the fix",priority=1
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what is mounted.
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
	// StartedVersion is the version that was mounted when the pod started; of an object that came later, as by an edit of the
	// class, the first one that was mounted.
	StartedVersion string `json:"startedVersion,omitempty"`
	// Expires is when the version ends, if the vault or the certificate says so.
	Expires *metav1.Time `json:"expires,omitempty"`
}

// SecretProviderClassPodStatusList is a list of status objects.
//
// +kubebuilder:object:root=true
type SecretProviderClassPodStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretProviderClassPodStatus `json:"items"`
}
