package emulator

import (
	"net/http"
	"strconv"
	"strings"
)

// metadata answers as the instance metadata service does: tokens of the machine's managed identities.
func (s *Server) metadata(x *exchange) reply {
	x.record.Operation = "metadata token"
	fail := func(status int, kind, text string) reply {
		return reply{status: status, body: map[string]any{"error": kind, "error_description": text}}
	}
	query := x.URL.Query()
	switch {
	case x.URL.Path != "/metadata/identity/oauth2/token":
		return fail(http.StatusNotFound, "invalid_request", "Not found")
	case !strings.EqualFold(x.Header.Get("Metadata"), "true"):
		return fail(http.StatusBadRequest, "bad_request_102", "Required metadata header not specified")
	case query.Get("api-version") == "":
		return fail(http.StatusBadRequest, "bad_request_100", "Required api-version not specified")
	case query.Get("resource") == "":
		return fail(http.StatusBadRequest, "invalid_request", "Required resource not specified")
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	identity, problem := s.state.managedIdentity(query.Get("client_id"), query.Get("object_id"), query.Get("msi_res_id"))
	if problem != "" {
		return fail(http.StatusBadRequest, "invalid_request", problem)
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
	resource := strings.TrimSuffix(query.Get("resource"), "/")
	token := s.accessToken(caller{clientID: identity.ClientID, objectID: identity.ObjectID, tenant: tenant}, resource)
	seconds := int64(s.state.lifetime.Seconds())
	return reply{status: http.StatusOK, body: map[string]any{
		"access_token": token, "client_id": identity.ClientID, "expires_in": strconv.FormatInt(seconds, 10),
		"expires_on":     strconv.FormatInt(s.state.now().Unix()+seconds, 10),
		"ext_expires_in": strconv.FormatInt(seconds, 10), "not_before": strconv.FormatInt(s.state.now().Unix()-60, 10),
		"resource": resource, "token_type": "Bearer",
	}}
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
