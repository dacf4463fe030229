package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of the types in this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: "secrets-store.csi.x-k8s.io", Version: "v1"}
}

// AddToScheme adds the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(), &SecretProviderClass{}, &SecretProviderClassList{}, &SecretProviderClassPodStatus{},
		&SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}
