package emulator

import (
	"crypto/sha1" //nolint:gosec // x5t is a SHA-1 thumbprint
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// vaultState is one vault; guarded by state.mu.
type vaultState struct {
	host, name, tenant string
	policies           bool
	network            string
	grants             map[string][]string // permissions by client id
	objects            map[objectKey]*object
}

type objectKey struct{ kind, name string }

// object is a secret, key or certificate with all its versions, the last one current.
type object struct {
	name     string
	versions []*version
	deleted  bool
}

type version struct {
	id                          string
	disabled                    bool
	created, notBefore, expires time.Time
	tags                        map[string]string
	// A secret's.
	value, contentType, kid string
	// A key's: its JSON Web Key without kid.
	jwk map[string]any
	// A certificate's.
	der     []byte
	managed bool
}

func (v *vaultState) add(kind, name string, n *version) {
	key := objectKey{kind, strings.ToLower(name)}
	o, ok := v.objects[key]
	if !ok {
		o = &object{name: name}
		v.objects[key] = o
	}
	if n.id == "" {
		n.id = newVersion()
	}
	if n.created.IsZero() {
		n.created = time.Now()
	}
	o.versions = append(o.versions, n)
}

func (v *vaultState) addSecret(s Secret) string {
	n := &version{
		id: s.Version, disabled: s.Disabled, created: s.Created, notBefore: s.NotBefore, expires: s.Expires, tags: s.Tags,
		value: s.Value, contentType: s.ContentType, kid: s.KID, managed: s.KID != "",
	}
	v.add("secrets", s.Name, n)
	return n.id
}

func (v *vaultState) find(kind, name string) (*object, error) {
	o, ok := v.objects[objectKey{kind, strings.ToLower(name)}]
	if !ok {
		return nil, fmt.Errorf("no %s %q in vault %s", kind, name, v.name)
	}
	return o, nil
}

func (v *vaultState) disable(kind, name, id string, disabled bool) error {
	o, err := v.find(kind, name)
	if err != nil {
		return err
	}
	found := false
	for _, n := range o.versions {
		if id == "" || n.id == id {
			n.disabled, found = disabled, true
		}
	}
	if !found {
		return fmt.Errorf("no version %q of %s %q", id, kind, name)
	}
	return nil
}

func problem(code, message, inner string) any {
	e := map[string]any{"code": code, "message": message}
	if inner != "" {
		e["innererror"] = map[string]any{"code": inner}
	}
	return map[string]any{"error": e}
}

func refusal(status int, code, message, inner string) reply {
	return reply{status: status, body: problem(code, message, inner)}
}

func challenge(tenant, message string) reply {
	if tenant == "" {
		tenant = "common"
	}
	a := refusal(http.StatusUnauthorized, "Unauthorized", message, "")
	a.header = map[string]string{"WWW-Authenticate": `Bearer authorization="https://login.microsoftonline.com/` + tenant +
		`", resource="https://vault.azure.net"`}
	return a
}

var (
	// apiVersions are those of the Key Vault data plane.
	apiVersions = []string{"7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-06-01-preview", "2025-07-01", "2026-04-01"}
	nameForm    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	versionForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// singular names the kinds in operations and messages.
var singular = map[string]string{"secrets": "secret", "keys": "key", "certificates": "certificate"}

// vault answers as a vault's data plane.
func (s *Server) vault(x *exchange) reply {
	parts := strings.Split(strings.Trim(x.URL.Path, "/"), "/")
	kind, deleted := strings.CutPrefix(parts[0], "deleted")
	noun, ok := singular[kind]
	x.record.Operation = "unknown"
	if !ok {
		return refusal(http.StatusNotFound, "NotFound", "The resource you are looking for has been removed, had its name changed, "+
			"or is temporarily unavailable.", "")
	}
	x.record.Operation = "get " + noun
	permission := kind + "/get"
	list := len(parts) == 1 || len(parts) == 3 && parts[2] == "versions"
	if list {
		x.record.Operation, permission = "list "+noun, kind+"/list"
	}
	if len(parts) > 1 {
		x.record.Name = parts[1]
	}
	if len(parts) > 2 && !list {
		x.record.Version = parts[2]
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	v := s.state.vaults[x.record.Host]
	if v == nil {
		return refusal(http.StatusNotFound, "VaultNotFound", "no such vault", "")
	}
	caller, denial := s.authenticate(x, v)
	if denial != nil {
		return *denial
	}
	x.record.Caller = caller.clientID
	if bad := checkRequest(x, parts); bad != nil {
		return *bad
	}
	if bad := v.authorize(caller, permission, kind, x.record.Name); bad != nil {
		return *bad
	}
	switch {
	case x.Method != http.MethodGet:
		return refusal(http.StatusMethodNotAllowed, "MethodNotAllowed", "the emulator reads only: use its control API", "")
	case len(parts) == 1:
		return v.listAll(x, kind, s.state.pageSize)
	case list:
		return v.listVersions(x, kind, parts[1], s.state.pageSize)
	}
	if deleted {
		return v.getDeleted(kind, noun, parts[1])
	}
	id := ""
	if len(parts) > 2 {
		id = parts[2]
	}
	if id == "policy" {
		return v.getPolicy(parts[1])
	}
	answer := v.get(kind, noun, parts[1], id)
	if out := x.URL.Query().Get("outContentType"); out != "" && answer.status == http.StatusOK {
		return convert(answer, out)
	}
	return answer
}

func checkRequest(x *exchange, parts []string) *reply {
	bad := func(message string) *reply {
		a := refusal(http.StatusBadRequest, "BadParameter", message, "")
		return &a
	}
	switch v := x.URL.Query().Get("api-version"); {
	case v == "":
		return bad("api-version must be specified")
	case !slices.Contains(apiVersions, v):
		return bad("The specified version (" + v + ") is not recognized. Consider using the latest supported version.")
	}
	if len(parts) > 1 && !nameForm.MatchString(parts[1]) {
		return bad("The request URI contains an invalid name: " + parts[1])
	}
	if len(parts) > 2 && parts[2] != "versions" && parts[2] != "policy" && !versionForm.MatchString(parts[2]) {
		return bad("The request URI contains an invalid version: " + parts[2])
	}
	return nil
}

// authorize checks the network rules and the caller's permissions.
func (v *vaultState) authorize(c caller, permission, kind, name string) *reply {
	who := fmt.Sprintf("appid=%s;oid=%s;iss=https://sts.windows.net/%s/", c.clientID, c.objectID, c.tenant)
	forbid := func(message, inner string) *reply {
		a := refusal(http.StatusForbidden, "Forbidden", message, inner)
		return &a
	}
	switch v.network {
	case "firewall":
		return forbid("Client address is not authorized and caller is not a trusted service.\r\nClient address: 203.0.113.7\r\nCaller: "+who+
			"\r\nVault: "+v.name+";location=emulator", "ForbiddenByFirewall")
	case "private":
		return forbid("Public network access is disabled and request is not from a trusted service nor via an approved private link.\r\nCaller: "+
			who+"\r\nVault: "+v.name+";location=emulator", "ForbiddenByConnection")
	}
	granted := v.grants[c.clientID]
	if slices.Contains(granted, "*") || slices.Contains(granted, permission) || slices.Contains(granted, kind+"/*") {
		return nil
	}
	operation := permission[len(kind)+1:]
	if v.policies {
		return forbid(fmt.Sprintf("The user, group or application '%s' does not have %s %s permission on key vault '%s;location=emulator'. "+
			"For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287", who, kind, operation, v.name),
			"ForbiddenByPolicy")
	}
	action := map[string]string{"secrets/get": "secrets/getSecret/action", "secrets/list": "secrets/readMetadata/action"}[permission]
	if action == "" {
		action = kind + "/read"
	}
	return forbid(fmt.Sprintf("Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role "+
		"definitions were changed recently, please observe propagation time.\r\nCaller: %s\r\nAction: 'Microsoft.KeyVault/vaults/%s'\r\n"+
		"Resource: '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/microsoft.keyvault/vaults/%s/%s/%s'\r\n"+
		"Assignment: (not found)\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\nVault: %s;location=emulator\r\n",
		who, action, v.name, kind, name, v.name), "ForbiddenByRbac")
}

func (v *vaultState) get(kind, noun, name, id string) reply {
	title := strings.ToUpper(noun[:1]) + noun[1:]
	asked := name
	if id != "" {
		asked += "/" + id
	}
	o, err := v.find(kind, name)
	var found *version
	if err == nil && !o.deleted {
		for _, n := range o.versions {
			if id == "" || n.id == id {
				found = n
			}
		}
	}
	if found == nil {
		return refusal(http.StatusNotFound, title+"NotFound", fmt.Sprintf("A %s with (name/id) %s was not found in this key vault. If you "+
			"recently deleted this %s you may be able to recover it using the correct recovery command. For help resolving this issue, "+
			"please see https://go.microsoft.com/fwlink/?linkid=2125182", noun, asked, noun), "")
	}
	if found.disabled && kind != "certificates" {
		return refusal(http.StatusForbidden, "Forbidden", "Operation get is not allowed on a disabled "+noun+".", title+"Disabled")
	}
	return reply{status: http.StatusOK, body: v.render(kind, o, found)}
}

// render makes the body of one version.
func (v *vaultState) render(kind string, o *object, n *version) map[string]any {
	id := "https://" + v.host + "/" + kind + "/" + o.name + "/" + n.id
	body := map[string]any{"attributes": n.attributes()}
	if len(n.tags) > 0 {
		body["tags"] = n.tags
	}
	switch kind {
	case "secrets":
		body["id"], body["value"] = id, n.value
		if n.contentType != "" {
			body["contentType"] = n.contentType
		}
		if n.kid != "" {
			body["kid"], body["managed"] = n.kid, true
		}
	case "keys":
		key := map[string]any{"kid": id, "key_ops": []string{"sign", "verify"}}
		maps.Copy(key, n.jwk)
		body["key"] = key
		if n.managed {
			body["managed"] = true
		}
	case "certificates":
		sum := sha1.Sum(n.der) //nolint:gosec // x5t is a SHA-1 thumbprint
		body["id"], body["cer"] = id, base64.StdEncoding.EncodeToString(n.der)
		body["kid"] = "https://" + v.host + "/keys/" + o.name + "/" + n.id
		body["sid"] = "https://" + v.host + "/secrets/" + o.name + "/" + n.id
		body["x5t"] = base64.RawURLEncoding.EncodeToString(sum[:])
		body["contentType"] = n.contentType
		body["policy"] = v.policy(o, n)
	}
	return body
}

func (n *version) attributes() map[string]any {
	a := map[string]any{
		"enabled": !n.disabled, "created": n.created.Unix(), "updated": n.created.Unix(),
		"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
	}
	if !n.notBefore.IsZero() {
		a["nbf"] = n.notBefore.Unix()
	}
	if !n.expires.IsZero() {
		a["exp"] = n.expires.Unix()
	}
	return a
}

func (v *vaultState) listVersions(x *exchange, kind, name string, pageSize int) reply {
	var items []map[string]any
	if o, err := v.find(kind, name); err == nil && !o.deleted {
		for _, n := range o.versions {
			items = append(items, v.item(kind, o, n, true))
		}
	}
	return page(x, items, pageSize)
}

func (v *vaultState) listAll(x *exchange, kind string, pageSize int) reply {
	var items []map[string]any
	for key, o := range v.objects {
		if key.kind == kind && !o.deleted {
			items = append(items, v.item(kind, o, o.versions[len(o.versions)-1], false))
		}
	}
	slices.SortFunc(items, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return page(x, items, pageSize)
}

// item is an entry of a list: no value.
func (v *vaultState) item(kind string, o *object, n *version, versioned bool) map[string]any {
	id := "https://" + v.host + "/" + kind + "/" + o.name
	if versioned {
		id += "/" + n.id
	}
	item := map[string]any{"attributes": n.attributes()}
	if kind == "keys" {
		item["kid"] = id
	} else {
		item["id"] = id
	}
	if n.managed {
		item["managed"] = true
	}
	return item
}

// page cuts a list. Pages may be short, and the first one is empty where the list is long: clients must follow the links.
func page(x *exchange, items []map[string]any, size int) reply {
	query := x.URL.Query()
	from, _ := strconv.Atoi(query.Get("$skiptoken"))
	from = min(max(from, 0), len(items))
	to := min(from+size, len(items))
	if from == 0 && query.Get("$skiptoken") == "" && len(items) > 2*size {
		to = 0
	}
	body := map[string]any{"value": items[from:to], "nextLink": nil}
	if to == from && len(items) == 0 {
		body["value"] = []any{}
	}
	if to < len(items) {
		query.Set("$skiptoken", strconv.Itoa(to))
		body["nextLink"] = "https://" + x.record.Host + x.URL.Path + "?" + query.Encode()
	}
	return reply{status: http.StatusOK, body: body}
}
