package secretsync

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claim is a field of a Secret that another field manager set to another value.
type claim struct {
	manager string
	field   string // data.password
	// class is that of the manager, where it is a class that asks for the same Secret.
	class string
}

// claimsOf returns what an apply conflicted with; nil where err is no conflict of field managers.
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

// claimsOfClasses returns the claims of other classes, given the names of those that ask for the same Secret.
func (d *Desired) claimsOfClasses(claims []claim, classes []string) (living []claim) {
	names := map[string]string{} // class by manager
	for _, class := range classes {
		if class != d.Class.Name {
			names[d.Writer.manager(class)] = class
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

// list names fields and who has them: data.a, data.b of class web; data.c of field manager "kubectl-edit".
func list(claims []claim) string {
	fields := map[string][]string{}
	var owners []string
	for _, c := range claims {
		owner := "field manager " + fmt.Sprintf("%.80q", c.manager)
		if c.class != "" {
			owner = "class " + c.class
		}
		if fields[owner] == nil {
			owners = append(owners, owner)
		}
		fields[owner] = append(fields[owner], c.field)
	}
	var parts []string
	for _, owner := range owners {
		slices.Sort(fields[owner])
		parts = append(parts, strings.Join(fields[owner], ", ")+" of "+owner)
	}
	return strings.Join(parts, "; ")
}

// asStatus finds the API server's answer in an error.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }

// hasCause says whether the API server names the field as a cause.
func hasCause(status apierrors.APIStatus, field string) bool {
	details := status.Status().Details
	return details != nil &&
		slices.ContainsFunc(details.Causes, func(c metav1.StatusCause) bool { return c.Field == field })
}

// hasCauseType says whether the API server gives a cause of the type.
func hasCauseType(err error, kind metav1.CauseType) bool {
	status := apierrors.APIStatus(nil)
	if !asStatus(err, &status) || status.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(
		status.Status().Details.Causes,
		func(c metav1.StatusCause) bool { return c.Type == kind },
	)
}

// namespaceTerminating is the cause that the API server gives where a namespace is being deleted.
const namespaceTerminating metav1.CauseType = "NamespaceTerminating"

// isNamespaceGone reports whether the namespace does not exist, and not only the Secret.
func isNamespaceGone(err error) bool {
	status := apierrors.APIStatus(nil)
	return apierrors.IsNotFound(err) && asStatus(err, &status) && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces"
}

// deniedByPolicy reports whether an admission policy, a webhook or a quota rejected the request, and not the API server
// itself.
func deniedByPolicy(status apierrors.APIStatus) bool {
	return strings.Contains(status.Status().Message, "denied")
}
