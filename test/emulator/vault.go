package emulator

import (
	"crypto"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp"
	"slices"
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
	now                func() time.Time
	// created is called for each new version.
	created func(kind, name string, n *version)
	// issued is called after a certificate was issued.
	issued func()
	// retention is how many days what was deleted can be recovered.
	retention       int
	purgeProtection bool
	sealer          cipher.AEAD
	issuers         map[string]*issuerBody // by name in lower case
	contacts        *contactsBody
	// issuance is how long it takes to issue a self-signed certificate, and issuing are those that are not issued yet.
	issuance *time.Duration
	issuing  []*object
	// budget is what is used of the service's limits, where they apply.
	budget budget
}

type objectKey struct{ kind, name string }

// object is a secret, key or certificate with all its versions, the last one current.
type object struct {
	name      string
	versions  []*version
	deleted   bool
	deletedAt time.Time
	// rotation is a key's policy, and policy a certificate's; nil where none was set.
	rotation *rotationBody
	policy   *certificatePolicy
	// operation is how the last version of a certificate was made that was asked for; operationGone is true where that
	// is not known any more.
	operation     *operation
	operationGone bool
}

func (o *object) current() *version { return o.versions[len(o.versions)-1] }

// before is the id of the version before another one; empty for the first.
func (o *object) before(n *version) string {
	if i := slices.Index(o.versions, n); i > 0 {
		return o.versions[i-1].id
	}
	return ""
}

type version struct {
	id                                   string
	disabled                             bool
	created, updated, notBefore, expires time.Time
	tags                                 map[string]string
	// A secret's.
	value, contentType, kid string
	// A key's, without what the answer adds; private is nil where the emulator has the public part alone. operations
	// are those that were asked for; nil for all of the type.
	jwk        *webKey
	private    crypto.Signer
	public     crypto.PublicKey
	operations []string
	// A certificate's.
	der, csr      []byte
	notExportable bool
	managed       bool
	// pending is true until it is issued.
	pending bool
}

func (v *vaultState) add(kind, name string, n *version) *object {
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
		n.created = v.now()
	}
	n.updated = n.created
	o.versions = append(o.versions, n)
	v.created(kind, o.name, n)
	return o
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
	if singular[kind] == "" {
		return nil, fmt.Errorf("unknown kind %q: one of secrets, keys and certificates", kind)
	}
	o, ok := v.objects[objectKey{kind, strings.ToLower(name)}]
	if ok && v.gone(o) {
		v.forget(kind, o)
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("no %s %q in vault %s", kind, name, v.name)
	}
	return o, nil
}

// update changes versions of objects of one name as a PATCH does: their time of update moves. An empty id means all
// versions.
func (v *vaultState) update(kind string, objects []*object, id string, change func(*version)) error {
	found := false
	for _, o := range objects {
		for _, n := range o.versions {
			if id == "" || n.id == id {
				change(n)
				n.updated, found = v.now(), true
			}
		}
	}
	if !found {
		return fmt.Errorf("no version %q of %s %q", id, kind, objects[0].name)
	}
	return nil
}

// remove deletes an object, or recovers it. With a certificate, its secret and its key go and come.
func (v *vaultState) remove(kind string, o *object, deleted bool) {
	for _, o := range v.withSides(kind, o) {
		o.deleted, o.deletedAt = deleted, v.now()
	}
}

// withSides returns an object; with a certificate also the secret and the key of its name.
func (v *vaultState) withSides(kind string, o *object) []*object {
	all := []*object{o}
	for _, side := range v.kindsOf(kind, o)[1:] {
		all = append(all, v.objects[objectKey{side, strings.ToLower(o.name)}])
	}
	return all
}

// kindsOf returns the kind of an object; of a certificate also the kinds of the secret and the key of its name.
func (v *vaultState) kindsOf(kind string, o *object) []string {
	kinds := []string{kind}
	if kind != "certificates" {
		return kinds
	}
	for _, side := range []string{"secrets", "keys"} {
		if other, ok := v.objects[objectKey{side, strings.ToLower(o.name)}]; ok && other.current().managed {
			kinds = append(kinds, side)
		}
	}
	return kinds
}

// problemBody is an error of the data plane.
type problemBody struct {
	Error problemDetail `json:"error"`
}

type problemDetail struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Inner   *problemCode `json:"innererror,omitempty"`
}

type problemCode struct {
	Code string `json:"code"`
}

func problem(code, message, inner string) problemBody {
	detail := problemDetail{Code: code, Message: message}
	if inner != "" {
		detail.Inner = &problemCode{Code: inner}
	}
	return problemBody{Error: detail}
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
	nameForm    = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)
	versionForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// singular names the kinds in operations and messages.
var singular = map[string]string{"secrets": "secret", "keys": "key", "certificates": "certificate"}

// route is what a path of a vault asks for.
type route struct {
	kind, noun    string
	name, version string
	// deleted is true under /deletedsecrets and the like.
	deleted bool
	list    bool
	// side is what is asked for beside versions: one of sides.
	side string
	// action is the last part of the path of a POST, such as backup.
	action string
}

// sides are the resources of a vault that are no secrets, keys and certificates, as operations name them.
const (
	sidePolicy    = "policy"
	sideOperation = "operation"
	sideRotation  = "rotation policy"
	sideIssuer    = "issuer"
	sideContacts  = "contacts"
)

// parseRoute returns false for a path that is none of the data plane. Empty parts do not count, as with the service.
func parseRoute(method, path string) (r route, ok bool) {
	parts := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	if last := len(parts) - 1; method == http.MethodPost && last > 0 {
		r.action, parts = parts[last], parts[:last]
	}
	if len(parts) == 0 {
		return r, false
	}
	r.kind, r.deleted = strings.CutPrefix(parts[0], "deleted")
	if r.noun, ok = singular[r.kind]; !ok || len(parts) > 3 || r.deleted && len(parts) > 2 {
		return r, false
	}
	if r.kind == "certificates" && !r.deleted && len(parts) > 1 {
		switch parts[1] { // no certificate has these names
		case "issuers":
			r.side, r.list = sideIssuer, len(parts) == 2
			if !r.list {
				r.name = parts[2]
			}
			return r, true
		case "contacts":
			r.side = sideContacts
			return r, len(parts) == 2
		}
	}
	r.list = len(parts) == 1
	if len(parts) > 1 {
		r.name = parts[1]
	}
	if len(parts) > 2 {
		switch {
		case parts[2] == "versions":
			r.list = true
		case parts[2] == "policy" && r.kind == "certificates":
			r.side = sidePolicy
		case parts[2] == "pending" && r.kind == "certificates":
			r.side = sideOperation
		case parts[2] == "rotationpolicy" && r.kind == "keys":
			r.side = sideRotation
		default:
			r.version = parts[2]
		}
	}
	return r, true
}

// operation is how the request log names a request. What is not a read is named by its method, or by what a POST does.
func (r route) operation(method string) string {
	verb, noun := "get", r.noun
	_, known := r.write(method)
	switch {
	case known && r.action != "":
		verb = r.action
	case method != http.MethodGet:
		verb = strings.ToLower(method)
	case r.list:
		verb = "list"
	}
	if r.deleted {
		noun = "deleted " + noun
	}
	if r.side != "" {
		noun += " " + r.side
	}
	return verb + " " + noun
}

// vault answers as a vault's data plane.
func (s *Server) vault(x *exchange) reply {
	x.header = map[string]string{
		"Cache-Control":                 "no-cache",
		"Pragma":                        "no-cache",
		"Expires":                       "-1",
		"Strict-Transport-Security":     "max-age=31536000;includeSubDomains",
		"X-Content-Type-Options":        "nosniff",
		"X-Ms-Keyvault-Region":          location,
		"X-Ms-Keyvault-Service-Version": "1.9.3449.1",
		"X-Ms-Keyvault-Network-Info":    "conn_type=Ipv4;addr=" + clientAddress + ";act_addr_fam=InterNetwork;",
	}
	if id := x.Header.Get("X-Ms-Client-Request-Id"); id != "" {
		x.header["X-Ms-Client-Request-Id"] = id
	}
	r, ok := parseRoute(x.Method, x.URL.Path)
	x.record.Operation = "unknown"
	if !ok {
		return refusal(http.StatusNotFound, "NotFound", "The resource you are looking for has been removed, had its name changed, "+
			"or is temporarily unavailable.", "")
	}
	x.record.Operation, x.record.Name, x.record.Version = r.operation(x.Method), r.name, r.version
	if x.Method == http.MethodGet {
		answer, _ := s.locked(func() (reply, slow) {
			v, bad := s.permit(x, r, r.readPermission())
			if bad != nil {
				return *bad, nil
			}
			return s.read(x, r, v), nil
		})
		return answer
	}
	w, known := r.write(x.Method)
	var v *vaultState
	answer, _ := s.locked(func() (denied reply, _ slow) {
		permission := w.permission
		if !known {
			permission = ""
		}
		var bad *reply
		if v, bad = s.permit(x, r, permission); bad != nil {
			denied = *bad
		}
		return denied, nil
	})
	if answer.status != 0 {
		return answer
	}
	return s.write(x, r, w, v)
}

// permit checks the caller, the request and the caller's permissions. Without a permission, the method is not allowed.
func (s *Server) permit(x *exchange, r route, permission string) (*vaultState, *reply) {
	v := s.state.vaults[x.record.Host]
	if v == nil {
		a := refusal(http.StatusNotFound, "VaultNotFound", "no such vault", "")
		return nil, &a
	}
	caller, denial := s.authenticate(x, v)
	if denial != nil {
		return nil, denial
	}
	x.record.Caller = caller.clientID
	v.settle()
	if bad := x.checkRequest(r); bad != nil {
		return nil, bad
	}
	if s.throttle {
		if tooMany := v.charge(r, x.Method, x.record.Operation); tooMany != nil {
			return nil, tooMany
		}
	}
	if permission == "" {
		a := refusal(http.StatusMethodNotAllowed, "MethodNotAllowed", "HTTP "+x.Method+" not allowed", "")
		return nil, &a
	}
	if bad := v.authorize(caller, r, permission, r.roleAction(x.Method, permission)); bad != nil {
		return nil, bad
	}
	if !v.policies {
		x.header["X-Ms-Keyvault-Rbac-Assignment-Id"] = assignmentID(v.host, caller.clientID)
	}
	return v, nil
}

// read answers a GET.
func (s *Server) read(x *exchange, r route, v *vaultState) reply {
	switch {
	case r.side != "":
		return v.getSide(x, r, s.state.paging)
	case r.list && r.name == "":
		return v.listAll(x, r.kind, r.deleted, s.state.paging)
	case r.list:
		return v.listVersions(x, r.kind, r.name, s.state.paging)
	}
	answer := v.get(r, x.api)
	out := x.URL.Query().Get("outContentType")
	if out != "" && r.kind == "secrets" && !r.deleted && answer.status == http.StatusOK &&
		x.api.has("2025-06-01-preview") {
		return convert(answer, out)
	}
	return answer
}

// location is the Azure region of all vaults, and clientAddress the one that they see: both are made up (RFC 5737).
const (
	location      = "emulator"
	clientAddress = "203.0.113.7"
)

// assignmentID is the id of the role assignment that permits a request.
func assignmentID(host, client string) string {
	sum := sha256.Sum256([]byte(host + " " + client))
	return hex.EncodeToString(sum[:16])
}

func (x *exchange) checkRequest(r route) *reply {
	bad := func(message string) *reply {
		a := refusal(http.StatusBadRequest, "BadParameter", message, "")
		return &a
	}
	asked := x.URL.Query().Get("api-version")
	if asked == "" {
		return bad("api-version must be specified")
	}
	var known bool
	if x.api, known = parseAPIVersion(asked); !known {
		return bad("The specified version (" + asked + ") is not recognized. Consider using the latest supported version (" +
			latestAPIVersion + ").")
	}
	if r.name != "" && !nameForm.MatchString(r.name) {
		return bad("The request URI contains an invalid name: " + r.name)
	}
	if r.version != "" && !versionForm.MatchString(r.version) {
		return bad("The request URI contains an invalid version: " + r.version)
	}
	return nil
}

// readPermission is what an access policy must permit of the kind for a GET.
func (r route) readPermission() string {
	switch {
	case r.side == sideRotation:
		return "getrotationpolicy"
	case r.side == sideContacts:
		return "managecontacts"
	case r.side == sideIssuer && r.list:
		return "listissuers"
	case r.side == sideIssuer:
		return "getissuers"
	case r.list:
		return "list"
	}
	return "get"
}

// actions are those of roles for reads, by permission, but for the kind's read.
var actions = map[string]string{
	"secrets/get":                 "secrets/getSecret/action",
	"secrets/list":                "secrets/readMetadata/action",
	"keys/getrotationpolicy":      "keyrotationpolicies/read",
	"certificates/listissuers":    "certificatecas/read",
	"certificates/getissuers":     "certificatecas/read",
	"certificates/managecontacts": "certificatecontacts/write",
}

// roleAction is what a role must permit for a request.
func (r route) roleAction(method, permission string) string {
	if w, ok := r.write(method); ok {
		return w.action
	}
	if action := actions[r.kind+"/"+permission]; action != "" {
		return action
	}
	return r.kind + "/read"
}

// authorize checks the network rules and the caller's permissions.
func (v *vaultState) authorize(c caller, r route, operation, action string) *reply {
	kind := r.kind
	permission := kind + "/" + operation
	who := fmt.Sprintf("appid=%s;oid=%s;iss=https://sts.windows.net/%s/", c.clientID, c.objectID, c.tenant)
	forbid := func(message, inner string) *reply {
		a := refusal(http.StatusForbidden, "Forbidden", message, inner)
		return &a
	}
	switch v.network {
	case "firewall":
		return forbid("Client address is not authorized and caller is not a trusted service.\r\nClient address: "+
			clientAddress+"\r\nCaller: "+who+"\r\nVault: "+v.name+";location="+location, "ForbiddenByFirewall")
	case "private":
		return forbid("Public network access is disabled and request is not from a trusted service nor via an approved private link.\r\nCaller: "+
			who+"\r\nVault: "+v.name+";location="+location, "ForbiddenByConnection")
	}
	granted := v.grants[c.clientID]
	if strings.HasSuffix(permission, "issuers") && slices.Contains(granted, "certificates/manageissuers") {
		return nil
	}
	if slices.Contains(granted, "*") || slices.Contains(granted, permission) || slices.Contains(granted, kind+"/*") {
		return nil
	}
	if v.policies {
		return forbid(fmt.Sprintf("The user, group or application '%s' does not have %s %s permission on key vault '%s;location=%s'. "+
			"For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125287", who, kind, operation, v.name,
			location), "ForbiddenByPolicy")
	}
	resource := "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/microsoft.keyvault/vaults/" + v.name
	if r.name != "" {
		resource += "/" + kind + "/" + r.name
	}
	return forbid(fmt.Sprintf("Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role "+
		"definitions were changed recently, please observe propagation time.\r\nCaller: %s\r\nAction: 'Microsoft.KeyVault/vaults/%s'\r\n"+
		"Resource: '%s'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\n"+
		"Vault: %s;location=%s\r\n", who, action, resource, v.name, location), "ForbiddenByRbac")
}

// get answers with one version. Only a secret that is disabled is refused: of keys and certificates the service gives
// the public part.
func (v *vaultState) get(r route, api apiVersion) reply {
	o, found, missing := v.lookup(r)
	switch {
	case missing != nil:
		return *missing
	case found.disabled && r.kind == "secrets":
		return refusal(http.StatusForbidden, "Forbidden", "Operation get is not allowed on a disabled secret.", "SecretDisabled")
	}
	return reply{status: http.StatusOK, body: v.render(r.kind, o, found, shape{
		api: api, versioned: true, latest: r.version == "", deleted: r.deleted,
	})}
}

// title is the noun as codes begin with it.
func (r route) title() string { return strings.ToUpper(r.noun[:1]) + r.noun[1:] }

func (r route) notFound() reply {
	asked := r.name
	if r.version != "" {
		asked += "/" + r.version
	}
	return refusal(http.StatusNotFound, r.title()+"NotFound", fmt.Sprintf("A %s with (name/id) %s was not found in this key "+
		"vault. If you recently deleted this %s you may be able to recover it using the correct recovery command. For help "+
		"resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182", r.noun, asked, r.noun), "")
}
