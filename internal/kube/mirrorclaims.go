package kube

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// claim is a field of a Secret that belongs to somebody else, with another value.
type claim struct {
	manager string
	field   string // data.password
	// class is that of the manager, where it is a class that asks for the same Secret.
	class string
}

// claimsOf returns what an apply ran into; nil where err is no conflict of field managers.
func claimsOf(err error) (claims []claim) {
	status := apierrors.APIStatus(nil)
	if !asStatus(err, &status) || status.Status().Details == nil || !apierrors.IsConflict(err) {
		return nil
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type != metav1.CauseTypeFieldManagerConflict {
			continue
		}
		c := claim{manager: "unknown", field: strings.TrimPrefix(cause.Field, ".")}
		if _, said, ok := strings.Cut(cause.Message, "conflict with "); ok {
			if quoted, err := strconv.QuotedPrefix(said); err == nil {
				if name, err := strconv.Unquote(quoted); err == nil {
					c.manager = name
				}
			}
		}
		claims = append(claims, c)
	}
	return claims
}

// living returns the claims of other classes that exist and ask for the same Secret.
func (m *Mirror) living(key secretKey, claims []claim) (living []claim) {
	names := map[string]string{} // class by manager
	for _, object := range m.classes.informer.GetStore().List() {
		class, ok := object.(*v1.SecretProviderClass)
		if !ok || class.Namespace != key.namespace || class.Name == key.class {
			continue
		}
		if slices.ContainsFunc(class.Spec.SecretObjects, func(o v1.SecretObject) bool { return o.SecretName == key.secret }) {
			names[managerOf(class.Name)] = class.Name
		}
	}
	for _, c := range claims {
		if name, ok := names[c.manager]; ok {
			c.class = name
			living = append(living, c)
		}
	}
	return living
}

// asStatus finds the API server's answer in an error.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }

// hasCause says whether the API server names the field as a cause.
func hasCause(status apierrors.APIStatus, field string) bool {
	details := status.Status().Details
	return details != nil && slices.ContainsFunc(details.Causes, func(c metav1.StatusCause) bool { return c.Field == field })
}

// deniedByPolicy tells the answer of an admission policy or webhook from the API server's own.
func deniedByPolicy(status apierrors.APIStatus) bool {
	return strings.Contains(status.Status().Message, "denied")
}
