package identity

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
)

// managed is a managed identity of the node: the one that an id names, or the system-assigned one.
type managed struct {
	// what is the kind of the id: client id, object id or resource id; empty for the system-assigned identity.
	what, id string
	sdk      azidentity.ManagedIDKind
}

func newManaged(c *class.Class) *managed {
	switch {
	case c.ManagedClientID != "":
		return &managed{what: "client id", id: c.ManagedClientID, sdk: azidentity.ClientID(c.ManagedClientID)}
	case c.ManagedObjectID != "":
		return &managed{what: "object id", id: c.ManagedObjectID, sdk: azidentity.ObjectID(c.ManagedObjectID)}
	case c.ManagedResourceID != "":
		return &managed{what: "resource id", id: c.ManagedResourceID, sdk: azidentity.ResourceID(c.ManagedResourceID)}
	}
	return &managed{}
}

func (*managed) name() string { return "managed identity" }

func (m *managed) String() string {
	if m.id == "" {
		return "the node's system-assigned managed identity"
	}
	return fmt.Sprintf("managed identity with %s %s", m.what, m.id)
}

func (m *managed) key() string { return keyOf(m.name(), m.what, strings.ToLower(m.id)) }

func (*managed) service() service { return service{name: "the instance metadata service"} }

func (m *managed) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	return azidentity.NewManagedIdentityCredential( // the caller explains
		&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options, ID: m.sdk})
}

// renewable is false: the instance metadata service gives the same token until it expires.
func (*managed) renewable() bool { return false }

func (*managed) update(method) {}

func (*managed) ready(time.Time) error { return nil }

func (*managed) secrets() []string { return nil }

func (m *managed) explain(f *failure) *volume.Error {
	if f.seen.err != nil {
		e := f.network()
		if e.Reason == volume.ReasonNetwork || e.Reason == volume.ReasonProxy {
			return f.error(e.Reason, "the instance metadata service "+f.host+" cannot be reached for "+f.who+
				": the node must be an Azure VM, and nothing may block the pod from it (hostNetwork, network policies)")
		}
		return nil
	}
	status := f.seen.status
	switch {
	case status < http.StatusBadRequest || f.throttled():
		return nil
	case status == http.StatusBadRequest && m.id != "":
		return f.error(volume.ReasonIdentity,
			f.who+" is not assigned to this node: assign it to the VM or scale set, or correct "+
				"userAssignedIdentityID")
	case status == http.StatusBadRequest && strings.Contains(strings.ToLower(f.answer.description), "multiple user "+
		"assigned"):
		return f.error(volume.ReasonIdentity,
			"the node has several user-assigned identities and the class names none: set "+
				"userAssignedIdentityID to the client id of one")
	case status == http.StatusBadRequest:
		return f.error(volume.ReasonIdentity,
			"the node has no system-assigned managed identity: switch it on for the VM or scale set, or set "+
				"userAssignedIdentityID")
	}
	return f.error(volume.ReasonUnavailable,
		fmt.Sprintf("the instance metadata service answered %d: it is tried again later", status))
}
