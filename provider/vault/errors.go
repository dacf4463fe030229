package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/neterr"
)

// Answers that cannot be used, inside this package.
var (
	errIncomplete = errors.New("the answer lacks what it must have")
	errEndless    = errors.New("the list does not end")
	errTooMany    = errors.New("the vault has too many objects to list")
	errForeign    = errors.New("the answer is for another object")
	errPending    = errors.New("the certificate is not issued yet")
)

// description says what was asked, for messages.
type description struct {
	kind          class.Kind
	name, version string
	operation     string
}

func describe(key volume.SourceKey, name string) description {
	d := description{kind: class.Kind(key.Kind), name: name, version: key.Version, operation: "get"}
	if key.List {
		d.operation = "list"
	}
	return d
}

// String is `secret "name"`, with the version where one was asked for.
func (d description) String() string {
	kind := string(d.kind)
	if d.kind == class.Certificate {
		kind = "certificate"
	}
	if d.name == "" {
		return "list of " + kind + "s"
	}
	if d.version != "" {
		return fmt.Sprintf("%s %q version %s", kind, d.name, d.version)
	}
	return fmt.Sprintf("%s %q", kind, d.name)
}

// explain turns a failed request into what a user reads.
func (c *Client) explain(err error, raw *http.Response, d description) *volume.Error {
	if known, ok := errors.AsType[*volume.Error](err); ok {
		return known
	}
	if r, ok := errors.AsType[*rejection](err); ok {
		return &volume.Error{
			Reason:    r.reason,
			RequestID: r.requestID,
			Message:   fmt.Sprintf("vault %s: %s: %s", c.host, d, r.message),
			Cause:     err,
		}
	}
	if errors.Is(err, errTooMany) {
		return &volume.Error{
			Reason: volume.ReasonInvalidClass,
			Message: fmt.Sprintf("vault %s: it has more than %d objects of this type, too many to select from (%s): name each with "+
				"objectName, or use a vault of its own", c.host, mostListed, d),
			Cause: err,
		}
	}
	if errors.Is(err, errPending) {
		return &volume.Error{
			Reason: volume.ReasonDisabled,
			Message: fmt.Sprintf("vault %s: %s: it is requested and not issued yet: complete its request with the certificate "+
				"authority, or name a version that is issued with objectVersion", c.host, d),
			RequestID: requestID(raw),
			Cause:     err,
		}
	}
	answered, ok := errors.AsType[*azcore.ResponseError](err)
	switch {
	case ok:
		return c.refused(answered.RawResponse, answered.StatusCode, d)
	case raw != nil && raw.StatusCode < http.StatusBadRequest && !neterr.Interrupted(err):
		return c.notAnAnswer(err, d, raw)
	case raw != nil && raw.StatusCode >= http.StatusBadRequest:
		return c.refused(raw, raw.StatusCode, d)
	}
	e := neterr.Classify(err, c.host)
	if e.Reason == volume.ReasonDNS || e.Reason == volume.ReasonNetwork || e.Reason == volume.ReasonProxy {
		e.Message = fmt.Sprintf("vault %s: %s: %s", c.host, d, e.Message)
	}
	return e
}

// notAnAnswer explains a success that holds nothing usable.
func (c *Client) notAnAnswer(err error, d description, raw *http.Response) *volume.Error {
	what := fmt.Sprintf("the answer is not one of Key Vault's (status %d)", raw.StatusCode)
	if errors.Is(err, errForeign) {
		what = "the answer is for another object than the one that was asked for"
	}
	return &volume.Error{
		Reason:    volume.ReasonUnavailable,
		Message:   fmt.Sprintf("vault %s: %s: %s: check proxies on the way", c.host, d, what),
		RequestID: requestID(raw),
		Cause:     err,
	}
}

// problem is an error body of Key Vault. Its words may quote anything: they are compared, and never printed.
type problem struct {
	code, inner, message string
}

// parseProblem reads an error body; key names count in any letter case. What is not understood is empty.
func parseProblem(body []byte) problem {
	var raw struct {
		Error struct {
			Code       string `json:"code"`
			Message    string `json:"message"`
			InnerError struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if json.Unmarshal(bytes.TrimSpace(body), &raw) != nil {
		return problem{}
	}
	return problem{code: raw.Error.Code, inner: raw.Error.InnerError.Code, message: raw.Error.Message}
}

// known is the error's code where it is one of Key Vault's.
func (p problem) known() string {
	switch p.code {
	case "BadParameter",
		"BadRequest",
		"Conflict",
		"Forbidden",
		"MethodNotAllowed",
		"NotFound",
		"NotSupported",
		"Unauthorized":
		return p.code
	}
	return "unknown code"
}

// refused explains an answer that is an error.
func (c *Client) refused(raw *http.Response, status int, d description) *volume.Error {
	e := &volume.Error{Reason: volume.ReasonUnavailable}
	var p problem
	if raw != nil {
		body, err := runtime.Payload(raw)
		if err == nil {
			p = parseProblem(body)
		}
		e.RequestID = requestID(raw)
		_, e.RetryAfter = limiter.Judge(raw, c.options.Clock.Now())
	}
	prefix := fmt.Sprintf("vault %s: %s: ", c.host, d)
	switch {
	case status == http.StatusForbidden && p.code != "":
		e.Reason, e.Message = c.forbidden(p, d)
	case status == http.StatusNotFound && p.code != "":
		e.Reason, e.Message = volume.ReasonNotFound, "it was not found: create it, recover it if it was deleted, or "+
			"correct objectName and objectVersion"
	case status == http.StatusTooManyRequests:
		e.Reason, e.Message = volume.ReasonThrottled, "the vault asked for fewer requests: it is tried again later; "+
			"if this goes on, spread the "+
			"load over more vaults or rotate less often"
	case status == http.StatusProxyAuthRequired:
		e.Reason, e.Message = volume.ReasonProxy, "the HTTP proxy wants authentication: put user and password into "+
			"HTTPS_PROXY of the driver"
	case status >= http.StatusInternalServerError || status == http.StatusRequestTimeout:
		e.Message = fmt.Sprintf("the vault or a proxy before it answered %d: it is tried again later", status)
	case p.code == "":
		e.Message = fmt.Sprintf("the answer is not one of Key Vault's (status %d): check proxies on the way", status)
	default:
		e.Reason = volume.ReasonInvalidClass
		e.Message = fmt.Sprintf(
			"the vault rejected the request (%s, status %d; details redacted): correct objectName, objectVersion and "+
				"objectType", p.known(), status)
	}
	e.Message = prefix + e.Message
	return e
}

// role is the least built-in role that permits an operation, and the permission of an access policy. Key Vault Reader
// reads certificates and the public part of keys, and no secret. The roles for crypto and certificate users may do
// more: sign and decrypt, and read every secret (https://learn.microsoft.com/azure/key-vault/general/rbac-guide). Who
// lists the versions of a secret reads their values next, so the role is the same.
func role(d description) (role, permission string) {
	switch d.kind {
	case class.Secret:
		return "Key Vault Secrets User", "secret " + d.operation
	case class.Key:
		return "Key Vault Reader", "key " + d.operation
	case class.Certificate:
	}
	return "Key Vault Reader", "certificate " + d.operation
}

func (c *Client) forbidden(p problem, d description) (volume.Reason, string) {
	role, permission := role(d)
	who := c.credential.String()
	if ids := c.authorizer.ids(); ids != "" {
		who += ", " + ids
	}
	inner := strings.ToLower(p.inner)
	text := strings.ToLower(p.message)
	switch {
	case strings.HasSuffix(inner, "disabled") && !strings.Contains(inner, "forbidden"):
		return volume.ReasonDisabled, "it is disabled: enable it in the vault, or name another version"
	case inner == "forbiddenbyfirewall",
		inner == "forbiddenbyconnection",
		strings.Contains(text, "client address is not authorized"),
		strings.Contains(text, "public network access is disabled"):
		return volume.ReasonFirewall, "the vault's network rules refuse the node: allow the node's subnet or " +
			"address in the vault's networking, " +
			"or reach the vault through a private endpoint; a change takes up to 15 minutes"
	case inner == "forbiddenbyrbac":
		return volume.ReasonPermission, fmt.Sprintf(
			"%s has no permission: assign it the role %q on the vault; a new assignment takes minutes "+
				"to count", who, role)
	case inner == "forbiddenbypolicy":
		return volume.ReasonPermission, fmt.Sprintf("%s has no permission: add %q to its access policy of the vault",
			who, permission)
	}
	return volume.ReasonPermission, fmt.Sprintf(
		"%s has no permission: assign it the role %q, or add %q to its access policy of the vault", who, role,
		permission)
}
