package class

import (
	"cmp"
	"strconv"
	"strings"
)

// Lint returns what the services refuse, or what is probably not intended, in parameters that Parse accepts: the mistakes with which no volume
// can be mounted, and warnings. It is for tools. With annotations, ServiceAccounts may name the client and the tenant.
func Lint(parameters map[string]string, annotations bool) (mistakes, warnings []Mistake) {
	l := linter{text: make(map[string]string, len(parameters))}
	for name, value := range parameters {
		l.text[name] = strings.TrimSpace(value)
	}
	if name := l.text["keyvaultName"]; vaultPattern.MatchString(name) && !isVaultName(name) {
		l.warn("keyvaultName", vaultNameProblem, vaultNameFix)
	}
	if text := l.text["filePermission"]; text != "" {
		if problem, fix := oddMode(text); problem != "" {
			l.warn("filePermission", problem, fix)
		}
	}
	if on, _ := strconv.ParseBool(l.text["useVMManagedIdentity"]); on {
		l.managed()
		return l.mistakes, l.warnings
	}
	l.entra(annotations)
	return l.mistakes, l.warnings
}

type linter struct {
	text               map[string]string
	mistakes, warnings []Mistake
}

func (l *linter) warn(name, problem, fix string) {
	l.warnings = append(l.warnings, Mistake{Parameter: name, Index: -1, Value: shorten(l.text[name]), Problem: problem, Fix: fix})
}

func (l *linter) wrong(name, problem, fix string) {
	l.mistakes = append(l.mistakes, Mistake{Parameter: name, Index: -1, Value: shorten(l.text[name]), Problem: problem, Fix: fix})
}

// managed looks at the ids of a managed identity.
func (l *linter) managed() {
	if l.text["clientID"] != "" {
		l.warn("clientID", "is ignored with useVMManagedIdentity",
			"write userAssignedIdentityID for a user-assigned identity of the node, or remove useVMManagedIdentity for workload identity")
	}
	for _, name := range []string{"userAssignedIdentityID", "userAssignedIdentityObjectID"} {
		id := l.text[name]
		switch {
		case id == "":
		case strings.HasPrefix(id, "/"):
			if parts := strings.Split(id, "/"); resourceIDPattern.MatchString(id) && !isGUID(parts[2]) {
				l.warn(name, "has "+strconv.Quote(shorten(parts[2]))+" as its subscription, which is not a GUID", "copy the resource id from the portal")
			}
		case clientPattern.MatchString(id):
			l.id(name, "write the identity's client id, a GUID")
		}
	}
}

// entra looks at the ids of workload identity, identity binding and service principals.
func (l *linter) entra(annotations bool) {
	old := l.text["tenantId"]
	if l.text["tenantID"] != "" && old != "" && !strings.EqualFold(old, l.text["tenantID"]) {
		l.warn("tenantId", "differs from tenantID "+strconv.Quote(shorten(l.text["tenantID"]))+", which is used", "remove tenantId")
	}
	name := "tenantID"
	if l.text[name] == "" && old != "" {
		name = "tenantId"
	}
	tenant := l.text[name]
	adfs := strings.EqualFold(tenant, "adfs") || strings.EqualFold(l.text["cloudName"], "AzureStackCloud")
	switch {
	case tenant == "" && !annotations:
		l.wrong("tenantID", "is not set", "write the id of the directory that the identity belongs to, a GUID")
	case tenant == "", adfs, !tenantPattern.MatchString(tenant):
	case strings.EqualFold(tenant, "common") || strings.EqualFold(tenant, "organizations") || strings.EqualFold(tenant, "consumers"):
		l.warn(name, "names no single directory", "write the directory's id, a GUID")
	case !strings.Contains(tenant, "."):
		l.id(name, "write the directory's id, a GUID, or a domain of it")
	}
	l.client(tenant, adfs, annotations)
}

// client looks at the id of the application or the identity.
func (l *linter) client(tenant string, adfs, annotations bool) {
	client := l.text["clientID"]
	switch proxy, _ := strconv.ParseBool(l.text["useAzureTokenProxy"]); {
	case client == "" && proxy && !annotations:
		l.wrong("clientID", "is not set, and useAzureTokenProxy needs it", "write the identity's client id, a GUID")
	case client == "", adfs, !clientPattern.MatchString(client):
	case strings.EqualFold(client, tenant):
		l.warn("clientID", "is the same as the tenant", "write the client id of the application or identity, not the directory's id")
	default:
		l.id("clientID", "write the client id of the application or user-assigned identity, a GUID")
	}
}

// id warns of an id that is no GUID, or an empty one.
func (l *linter) id(name, fix string) {
	switch text := l.text[name]; {
	case !isGUID(text):
		l.warn(name, "is not a GUID", fix)
	case strings.Trim(text, "0-") == "":
		l.warn(name, "is the empty GUID", fix)
	}
}

// isGUID reports whether a text is a GUID with hyphens.
func isGUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !isHex(c) && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// isVersion reports whether Key Vault may have a version of this id.
func isVersion(text string) bool {
	if len(text) != 32 {
		return false
	}
	for i := range len(text) {
		if c := text[i]; !isHex(c) && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

const (
	vaultNameProblem = "cannot be the name of a vault, which begins with a letter, ends with a letter or a digit and has no two hyphens in a row"
	vaultNameFix     = "write the first part of the vault's host name"
)

// isVaultName reports whether a vault may have a name that is one by its characters and its length.
func isVaultName(name string) bool {
	first, last := name[0], name[len(name)-1]
	letter := 'a' <= first && first <= 'z' || 'A' <= first && first <= 'Z'
	return letter && last != '-' && !strings.Contains(name, "--")
}

// oddMode says what is odd about a file mode; nothing where the text is none.
func oddMode(text string) (problem, fix string) {
	mode, wrong, _ := fileMode(text)
	if wrong != "" {
		return "", ""
	}
	decimal := ""
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 0o777 {
		decimal = "0" + strconv.FormatInt(int64(n), 8)
	}
	readable, writable := mode>>2&0o111, mode>>1&0o111
	switch {
	case readable == 0:
		return "lets no one read the file", "write octal digits such as 0400 or 0644"
	case writable&^readable != 0:
		return "permits to write what may not be read", "write octal digits: did you mean " + cmp.Or(decimal, "0644") + "?"
	}
	return "", ""
}
