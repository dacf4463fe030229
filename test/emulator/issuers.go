package emulator

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// issuerBody is a certificate issuer. Its password is not kept: the service does not give it out.
type issuerBody struct {
	ID          string             `json:"id"`
	Provider    string             `json:"provider"`
	Credentials *issuerCredentials `json:"credentials,omitempty"`
	OrgDetails  *issuerDetails     `json:"org_details,omitempty"`
	Attributes  *policyAttributes  `json:"attributes,omitempty"`
}

type issuerCredentials struct {
	AccountID string `json:"account_id,omitempty"`
}

type issuerDetails struct {
	ID    string        `json:"id,omitempty"`
	Zip   int           `json:"zip"`
	Admin []issuerAdmin `json:"admin_details"`
}

type issuerAdmin struct {
	FirstName string `json:"first_name,omitempty"`
	LastName  string `json:"last_name,omitempty"`
	Email     string `json:"email,omitempty"`
	Phone     string `json:"phone,omitempty"`
}

// contactsBody are whom the service tells of certificates.
type contactsBody struct {
	ID       string    `json:"id"`
	Contacts []contact `json:"contacts"`
}

type contact struct {
	Email string `json:"email,omitempty"`
	Name  string `json:"name,omitempty"`
	Phone string `json:"phone,omitempty"`
}

// maxIssuers is how many issuers a vault of the emulator holds, and how many people an issuer or the contacts have.
const maxIssuers = 100

func noIssuer() reply {
	return refusal(http.StatusNotFound, "CertificateIssuerNotFound", "Issuer not found", "")
}

// setIssuer makes an issuer, or replaces it.
func (v *vaultState) setIssuer(c *call) (reply, slow) {
	var in issuerBody
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	key := strings.ToLower(c.name)
	switch {
	case in.Provider == "":
		return badParameter("The provider of the issuer is missing."), nil
	case len(v.issuers) >= maxIssuers && v.issuers[key] == nil:
		return badParameter(fmt.Sprintf("The emulator holds at most %d issuers in a vault.", maxIssuers)), nil
	}
	now := stamp(v.now())
	kept := &issuerBody{
		ID:         v.url("certificates/issuers", c.name),
		Provider:   in.Provider,
		Attributes: &policyAttributes{Enabled: true, Created: now, Updated: now},
	}
	if bad := kept.change(&in, c.body); bad != nil {
		return *bad, nil
	}
	v.issuers[key] = kept
	return reply{status: http.StatusOK, body: *kept}, nil
}

// change sets what the request has.
func (i *issuerBody) change(in *issuerBody, body []byte) *reply {
	if in.OrgDetails != nil && len(in.OrgDetails.Admin) > maxIssuers {
		a := badParameter(fmt.Sprintf("An issuer has at most %d administrators.", maxIssuers))
		return &a
	}
	if in.Credentials != nil {
		i.Credentials = in.Credentials
	}
	if in.OrgDetails != nil {
		i.OrgDetails = in.OrgDetails
		i.OrgDetails.Admin = append([]issuerAdmin{}, i.OrgDetails.Admin...)
	}
	var enabled struct {
		Attributes givenAttributes `json:"attributes"`
	}
	if bad := (&call{body: body}).decode(&enabled); bad != nil {
		return bad
	}
	if enabled.Attributes.Enabled != nil {
		i.Attributes.Enabled = *enabled.Attributes.Enabled
	}
	return nil
}

func (v *vaultState) updateIssuer(c *call) (reply, slow) {
	var in issuerBody
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	before := v.issuers[strings.ToLower(c.name)]
	if before == nil {
		return noIssuer(), nil
	}
	kept, attributes := *before, *before.Attributes // answers that are being written have the one before
	kept.Attributes = &attributes
	if bad := kept.change(&in, c.body); bad != nil {
		return *bad, nil
	}
	kept.Provider = cmp.Or(in.Provider, kept.Provider)
	kept.Attributes.Updated = stamp(v.now())
	v.issuers[strings.ToLower(c.name)] = &kept
	return reply{status: http.StatusOK, body: kept}, nil
}

func (v *vaultState) deleteIssuer(c *call) (reply, slow) {
	kept := v.issuers[strings.ToLower(c.name)]
	if kept == nil {
		return noIssuer(), nil
	}
	delete(v.issuers, strings.ToLower(c.name))
	return reply{status: http.StatusOK, body: *kept}, nil
}

// listIssuers lists them with their providers alone.
func (v *vaultState) listIssuers(x *exchange, p paging) reply {
	var items []any
	for _, key := range slices.Sorted(maps.Keys(v.issuers)) {
		items = append(items, issuerBody{ID: v.issuers[key].ID, Provider: v.issuers[key].Provider})
	}
	return p.cut(x, "certificates/issuers", items)
}

func noContacts() reply {
	return refusal(http.StatusNotFound, "ContactsNotFound", "Contacts not found", "")
}

func (v *vaultState) setContacts(c *call) (reply, slow) {
	var in contactsBody
	if bad := c.decode(&in); bad != nil {
		return *bad, nil
	}
	if len(in.Contacts) == 0 || len(in.Contacts) > maxIssuers {
		return badParameter(fmt.Sprintf("A vault has 1 to %d contacts.", maxIssuers)), nil
	}
	v.contacts = &contactsBody{ID: "https://" + v.host + "/certificates/contacts", Contacts: in.Contacts}
	return reply{status: http.StatusOK, body: *v.contacts}, nil
}

func (v *vaultState) deleteContacts(*call) (reply, slow) {
	if v.contacts == nil {
		return noContacts(), nil
	}
	gone := *v.contacts
	v.contacts = nil
	return reply{status: http.StatusOK, body: gone}, nil
}
