package emulator

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// metadata answers as the instance metadata service does: tokens of the machine's managed identities.
func (s *Server) metadata(x *exchange) reply {
	x.record.Operation = "metadata token"
	x.header = map[string]string{"Server": "IMDS/150.870.65.1475"}
	fail := func(text string) reply {
		return reply{status: http.StatusBadRequest, body: oauthProblem{Error: "invalid_request", Description: text}}
	}
	query := x.URL.Query()
	switch {
	case x.URL.Path != "/metadata/identity/oauth2/token":
		return reply{status: http.StatusNotFound, body: map[string]string{"error": "Not found"}}
	case !strings.EqualFold(x.Header.Get("Metadata"), "true"):
		return fail("Required metadata header not specified")
	case query.Get("api-version") == "":
		return fail("Required api-version not specified")
	case query.Get("resource") == "":
		return fail("Required resource not specified")
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	identity, problem := s.state.managedIdentity(query.Get("client_id"), query.Get("object_id"), query.Get("msi_res_id"))
	if problem != "" {
		return fail(problem)
	}
	x.record.Name, x.record.Caller = identity.ClientID, identity.ClientID
	tenant := ""
	for id, apps := range s.state.tenants {
		if _, ok := apps[identity.ClientID]; ok {
			tenant = id
		}
	}
	if tenant == "" {
		for id := range s.state.tenants { // an identity without an application belongs to the machine's tenant
			tenant = id
		}
	}
	resource := query.Get("resource")
	token := s.accessToken(caller{clientID: identity.ClientID, objectID: identity.ObjectID, tenant: tenant}, resource)
	seconds := strconv.FormatInt(int64(s.state.lifetime.Seconds()), 10)
	return reply{status: http.StatusOK, body: metadataToken{
		AccessToken: token, ClientID: identity.ClientID, ExpiresIn: seconds,
		ExpiresOn:    strconv.FormatInt(s.state.now().Add(s.state.lifetime).Unix(), 10),
		ExtExpiresIn: seconds, NotBefore: strconv.FormatInt(s.state.now().Add(-5*time.Minute).Unix(), 10),
		Resource: resource, TokenType: "Bearer",
	}}
}

// metadataToken is a token of the instance metadata service: its numbers are strings.
type metadataToken struct {
	AccessToken  string `json:"access_token"`
	ClientID     string `json:"client_id"`
	ExpiresIn    string `json:"expires_in"`
	ExpiresOn    string `json:"expires_on"`
	ExtExpiresIn string `json:"ext_expires_in"`
	NotBefore    string `json:"not_before"`
	Resource     string `json:"resource"`
	TokenType    string `json:"token_type"`
}

func (st *state) managedIdentity(client, object, resource string) (*ManagedIdentity, string) {
	for i, m := range st.managed {
		switch {
		case client != "" && m.ClientID == client, object != "" && m.ObjectID == object,
			resource != "" && strings.EqualFold(m.ResourceID, resource),
			client+object+resource == "" && m.System:
			return &st.managed[i], ""
		}
	}
	if client+object+resource == "" && len(st.managed) == 1 {
		return &st.managed[0], ""
	}
	if client+object+resource == "" && len(st.managed) > 1 {
		return nil, "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
	}
	return nil, "Identity not found"
}
