package emulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// write is an operation that changes a vault or uses a key. Its permission is what an access policy must permit of the
// kind, and its action is that of a role.
type write struct {
	permission, action string
	// unnamed is true where the path has no name, and versioned where it may have a version.
	unnamed, versioned bool
	// most is how many bytes the request's body may have; 0 means that it has none.
	most int64
	do   func(*vaultState, *call) (reply, slow)
}

// slow is the part of an operation that takes long, such as making a key. It runs without the lock, and returns the
// part that changes the vault, which runs with it.
type slow func() func() reply

// The most bytes that bodies of requests may have. A backup has all versions of an object.
const (
	smallBody  = 1 << 20
	backupBody = 16 << 20
)

// writes are the operations by method, kind and what of it.
var writes = newWrites()

func newWrites() map[string]write {
	all := map[string]write{
		"PUT secrets": {
			permission: "set", action: "secrets/setSecret/action", most: smallBody, do: (*vaultState).setSecret,
		},
		"PATCH secrets": {
			permission: "set", action: "secrets/update/action", versioned: true, most: smallBody, do: (*vaultState).updateSecret,
		},
		"PUT keys": {
			permission: "import", action: "keys/import/action", most: smallBody, do: (*vaultState).importKey,
		},
		"POST keys create": {
			permission: "create", action: "keys/create/action", most: smallBody, do: (*vaultState).createKey,
		},
		"PATCH keys": {
			permission: "update", action: "keys/update/action", versioned: true, most: smallBody, do: (*vaultState).updateKey,
		},
		"POST keys rotate": {
			permission: "rotate", action: "keys/rotate/action", do: (*vaultState).rotateKey,
		},
		"PUT keys rotation policy": {
			permission: "setrotationpolicy", action: "keyrotationpolicies/write", most: smallBody,
			do: (*vaultState).setRotationPolicy,
		},
	}
	for key, do := range map[string]func(*vaultState, *call) (reply, slow){
		"POST certificates create":          (*vaultState).createCertificate,
		"POST certificates operation merge": (*vaultState).mergeCertificate,
	} {
		all[key] = write{permission: "create", action: "certificates/create/action", most: smallBody, do: do}
	}
	all["POST certificates import"] = write{
		permission: "import", action: "certificates/import/action", most: smallBody, do: (*vaultState).importCertificate,
	}
	for key, do := range map[string]func(*vaultState, *call) (reply, slow){
		"PATCH certificates":            (*vaultState).updateCertificate,
		"PATCH certificates policy":     (*vaultState).updatePolicy,
		"PATCH certificates operation":  (*vaultState).updateOperation,
		"DELETE certificates operation": (*vaultState).deleteOperation,
	} {
		all[key] = write{
			permission: "update", action: "certificates/update/action", versioned: key == "PATCH certificates",
			most: smallBody, do: do,
		}
	}
	all["PUT certificates issuer"] = write{
		permission: "setissuers", action: "certificatecas/write", most: smallBody, do: (*vaultState).setIssuer,
	}
	all["PATCH certificates issuer"] = write{
		permission: "setissuers", action: "certificatecas/write", most: smallBody, do: (*vaultState).updateIssuer,
	}
	all["DELETE certificates issuer"] = write{
		permission: "deleteissuers", action: "certificatecas/delete", do: (*vaultState).deleteIssuer,
	}
	all["PUT certificates contacts"] = write{
		permission: "managecontacts", action: "certificatecontacts/write", unnamed: true, most: smallBody,
		do: (*vaultState).setContacts,
	}
	all["DELETE certificates contacts"] = write{
		permission: "managecontacts", action: "certificatecontacts/write", unnamed: true, do: (*vaultState).deleteContacts,
	}
	for permission, action := range map[string]string{
		"sign":      "sign",
		"verify":    "verify",
		"encrypt":   "encrypt",
		"decrypt":   "decrypt",
		"wrapKey":   "wrap",
		"unwrapKey": "unwrap",
	} {
		all["POST keys "+strings.ToLower(permission)] = write{
			permission: permission, action: "keys/" + action + "/action", versioned: true, most: smallBody,
			do: (*vaultState).useKey,
		}
	}
	for kind := range singular {
		all["DELETE "+kind] = write{
			permission: "delete", action: kind + "/delete", do: (*vaultState).softDelete,
		}
		all["POST "+kind+" backup"] = write{
			permission: "backup", action: kind + "/backup/action", do: (*vaultState).backup,
		}
		all["POST "+kind+" restore"] = write{
			permission: "restore", action: kind + "/restore/action", unnamed: true, most: backupBody, do: (*vaultState).restore,
		}
		all["POST deleted"+kind+" recover"] = write{
			permission: "recover", action: kind + "/recover/action", do: (*vaultState).recover,
		}
		all["DELETE deleted"+kind] = write{
			permission: "purge", action: kind + "/purge/action", do: (*vaultState).purge,
		}
	}
	return all
}

// write returns the operation that a request asks for, and false where there is none.
func (r route) write(method string) (write, bool) {
	key := method + " "
	if r.deleted {
		key += "deleted"
	}
	key += r.kind
	if r.side != "" {
		key += " " + r.side
	}
	if r.action != "" {
		key += " " + r.action
	}
	w, ok := writes[key]
	return w, ok && w.unnamed == (r.name == "") && (w.versioned || r.version == "")
}

// call is a write with its input.
type call struct {
	*exchange
	route

	body []byte
}

// write reads the body of an operation that is permitted, and performs it. A fault that is an answer of the
// service takes the place of the operation: what is throttled has not been done.
func (s *Server) write(x *exchange, r route, w write, v *vaultState) reply {
	if x.takeFault(s.state); x.fault != nil && x.fault.prevents() {
		return reply{}
	}
	c := &call{exchange: x, route: r}
	if w.most > 0 {
		body, err := io.ReadAll(http.MaxBytesReader(nil, x.Body, w.most))
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return refusal(http.StatusRequestEntityTooLarge, "BadParameter",
				fmt.Sprintf("The request body is beyond the maximum permitted length of %d bytes.", w.most), "")
		}
		if errors.Is(err, errBodies) {
			return refusal(http.StatusServiceUnavailable, "ServiceUnavailable", "The emulator is reading too many large requests: try again later.", "")
		}
		if err != nil {
			return badParameter("The request body could not be read.")
		}
		c.body = body
	}
	defer s.state.generation.Add(1)
	answer, rest := s.locked(func() (reply, slow) { return w.do(v, c) })
	if rest == nil {
		return answer
	}
	commit := rest()
	answer, _ = s.locked(func() (reply, slow) { return commit(), nil })
	return answer
}

func (s *Server) locked(f func() (reply, slow)) (reply, slow) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return f()
}

func badParameter(message string) reply {
	return refusal(http.StatusBadRequest, "BadParameter", message, "")
}

// malformed is what the service says of JSON that it cannot read, and of values of a wrong type.
func malformed() reply { return badParameter("Property  has invalid value\r\n") }

// decode reads the body as JSON. Fields that are not known are ignored, as the service does.
func (c *call) decode(into any) *reply {
	if err := json.Unmarshal(c.body, into); err != nil {
		a := malformed()
		return &a
	}
	return nil
}

// givenAttributes are those of a request. What is nil stays as it is.
type givenAttributes struct {
	Enabled    *bool  `json:"enabled"`
	NotBefore  *int64 `json:"nbf"`
	Expires    *int64 `json:"exp"`
	Exportable *bool  `json:"exportable"`
}

// given is what requests for objects of all kinds have.
type given struct {
	Attributes givenAttributes   `json:"attributes"`
	Tags       map[string]string `json:"tags"`
}

// The service's limits of an object.
const (
	maxTags        = 15
	maxTag         = 256
	maxContentType = 255
	maxSecret      = 25600
	// lastSecond is the end of the year 9999.
	lastSecond = 253402300799
)

// maxVersions is how many versions of objects a vault of the emulator holds.
const maxVersions = 20000

func (g *given) check() *reply {
	bad := func(message string) *reply {
		a := badParameter(message)
		return &a
	}
	for _, second := range []*int64{g.Attributes.NotBefore, g.Attributes.Expires} {
		if second != nil && (*second < 0 || *second > lastSecond) {
			return bad("Property  has invalid value\r\n")
		}
	}
	if len(g.Tags) > maxTags {
		return bad(fmt.Sprintf("Too many tags: %d. An object has at most %d.", len(g.Tags), maxTags))
	}
	for name, value := range g.Tags {
		if utf8.RuneCountInString(name) > maxTag || utf8.RuneCountInString(value) > maxTag {
			return bad(fmt.Sprintf("A tag's name and value are each at most %d characters long.", maxTag))
		}
	}
	return nil
}

// apply changes a version as the request says. Tags replace all of those that were there.
func (g *given) apply(n *version) {
	if g.Attributes.Enabled != nil {
		n.disabled = !*g.Attributes.Enabled
	}
	if g.Attributes.NotBefore != nil {
		n.notBefore = time.Unix(*g.Attributes.NotBefore, 0)
	}
	if g.Attributes.Expires != nil {
		n.expires = time.Unix(*g.Attributes.Expires, 0)
	}
	if g.Tags != nil {
		n.tags = g.Tags
	}
}

// vacant reports why a new version of a name cannot be made: the object is deleted, its versions belong to a
// certificate, or the vault is full.
func (v *vaultState) vacant(r route) *reply {
	var a reply
	o, err := v.find(r.kind, r.name)
	switch {
	case v.count() >= maxVersions:
		a = badParameter(fmt.Sprintf("The emulator holds at most %d versions in a vault.", maxVersions))
	case err != nil:
		return nil
	case o.deleted:
		message := fmt.Sprintf("%s %s is currently in a deleted but recoverable state, and its name cannot be reused; in this "+
			"state, the %s can only be recovered or purged.", r.title(), o.name, r.noun)
		a = refusal(http.StatusConflict, "Conflict", message, "ObjectIsDeletedButRecoverable")
	default:
		return r.unmanaged(o)
	}
	return &a
}

// unmanaged refuses to change what belongs to a certificate.
func (r route) unmanaged(o *object) *reply {
	if r.kind == "certificates" || !o.current().managed {
		return nil
	}
	message := fmt.Sprintf("Operation is not allowed on a %s that a certificate manages. Use the certificate %s instead.",
		r.noun, o.name)
	a := refusal(http.StatusForbidden, "Forbidden", message, "")
	return &a
}

// count is how many versions the vault holds.
func (v *vaultState) count() int {
	total := 0
	for _, o := range v.objects {
		total += len(o.versions)
	}
	return total
}

// lookup finds the version that a path names, the current one where it names none.
func (v *vaultState) lookup(r route) (*object, *version, *reply) {
	o, err := v.find(r.kind, r.name)
	if err == nil && o.deleted == r.deleted {
		if r.version == "" {
			return o, o.current(), nil
		}
		if i := slices.IndexFunc(o.versions, func(n *version) bool { return n.id == r.version }); i >= 0 {
			return o, o.versions[i], nil
		}
	}
	a := r.notFound()
	if r.deleted && err == nil { // it is there, but not deleted
		a = refusal(http.StatusNotFound, r.title()+"NotFound", "Deleted "+r.title()+" not found: "+r.name, "")
	}
	return nil, nil, &a
}

// answer is the body of one version, as after a write: of a secret without its value.
func (v *vaultState) answer(c *call, o *object, n *version) reply {
	return reply{status: http.StatusOK, body: v.render(c.kind, o, n, shape{
		api:       c.api,
		versioned: true,
		latest:    c.version == "",
		deleted:   o.deleted,
		valueless: true,
	})}
}
