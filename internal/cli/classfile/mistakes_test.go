package classfile

import (
	"strings"
	"testing"
)

// shop is a class without a finding.
const shop = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: shop
  namespace: web
spec:
  provider: azure
  parameters:
    keyvaultName: contoso-shop
    tenantID: 11111111-2222-3333-4444-555555555555
    clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa
    objects: |
      array:
        - |
          objectName: db-password
          objectType: secret
        - |
          objectName: web-tls
          objectType: secret
          objectAlias: tls/server.pem
  secretObjects:
    - secretName: shop-db
      type: Opaque
      data:
        - objectName: db-password
          key: password
`

// mistake is what an author writes in place of something, and what they must read about it. The line is that of the mark in the new text.
type mistake struct {
	from, to string
	severity Severity
	field    string
	value    string
	fix      string
}

// mark is before the line that is wrong.
const mark = "»"

// lint returns the findings about a text, which is named by the person.
func lint(t *testing.T, text string) []Finding {
	t.Helper()
	s := NewSet(options(t), Rules{Lint: true})
	s.Add("f.yaml", []byte(text), true)
	return s.Finish(t.Context(), nil)
}

// check finds the mistake among the findings of a text: in its line, with field, value and fix.
func (m mistake) check(t *testing.T, good string) {
	t.Helper()
	if !strings.Contains(good, m.from) {
		t.Fatalf("the good text has no %q", m.from)
	}
	marked := strings.Replace(good, m.from, m.to, 1)
	before, _, found := strings.Cut(marked, mark)
	if !found {
		t.Fatal("no line is marked")
	}
	line := 1 + strings.Count(before, "\n")
	findings := lint(t, strings.ReplaceAll(marked, mark, ""))
	others := 0
	for _, f := range findings {
		if f.Line == line && f.Severity == m.severity && strings.Contains(f.Field, m.field) && f.Value == m.value && strings.Contains(f.Fix, m.fix) {
			if !strings.Contains(f.Message, m.fix) {
				t.Errorf("the message lacks the fix: %s", f)
			}
			found = false
		} else if f.Severity != Note {
			others++
		}
	}
	if found {
		t.Errorf("want line %d: %s %s %q: …%s…, got", line, m.severity, m.field, m.value, m.fix)
	}
	if found || others > 2 {
		for _, f := range findings {
			t.Errorf("%s (field %q, value %q, fix %q)", f, f.Field, f.Value, f.Fix)
		}
	}
}

func TestTheClassWithoutMistakes(t *testing.T) {
	if findings := lint(t, shop); len(findings) > 0 {
		t.Error(findings)
	}
}

// What authors of classes get wrong, by what upstream's users report and by what one may write.
func TestMistakesInClasses(t *testing.T) {
	const (
		db     = "          objectType: secret\n"
		vault  = "    keyvaultName: contoso-shop\n"
		tenant = "    tenantID: 11111111-2222-3333-4444-555555555555\n"
		client = "    clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa\n"
	)
	for name, m := range map[string]mistake{
		// the object
		"API version of another group":  {"secrets-store.csi.x-k8s.io/v1\n", mark + "secrets-store.csi.k8s.io/v1\n", Error, "apiVersion", "secrets-store.csi.k8s.io/v1", "write secrets-store.csi.x-k8s.io/v1"},
		"API version that is not there": {"apiVersion: secrets-store.csi.x-k8s.io/v1\n", mark, Error, "apiVersion", "", "write secrets-store.csi.x-k8s.io/v1"},
		"kind in another case":          {"kind: SecretProviderClass", mark + "kind: SecretProviderclass", Error, "kind", "SecretProviderclass", "SecretProviderClass"},
		"kind misspelt":                 {"kind: SecretProviderClass", mark + "kind: SecretsProviderClass", Error, "kind", "SecretsProviderClass", "SecretProviderClass"},
		"kind's key misspelt":           {"kind: SecretProviderClass", mark + "knid: SecretProviderClass", Error, "knid", "", "did you mean kind?"},
		"metadata misspelt":             {"metadata:\n", mark + "metdata:\n", Warning, "metdata", "", "did you mean metadata?"},
		"name in upper case":            {"  name: shop\n", mark + "  name: Shop\n", Error, "metadata.name", "Shop", "lower-case"},
		"name with an underscore":       {"  name: shop\n", mark + "  name: my_shop\n", Error, "metadata.name", "my_shop", "hyphens"},
		"name is a number":              {"  name: shop\n", mark + "  name: 4711\n", Error, "metadata.name", "4711", "quotes"},
		"no name":                       {"  name: shop\n", "  " + mark + "labels: {}\n", Error, "metadata.name", "", "lower-case"},
		"namespace's key misspelt":      {"  namespace: web\n", mark + "  namepsace: web\n", Warning, "metadata.namepsace", "web", "did you mean namespace?"},
		"namespace with a dot":          {"  namespace: web\n", mark + "  namespace: web.prod\n", Error, "metadata.namespace", "web.prod", "hyphens"},
		"label is a boolean":            {"  namespace: web\n", "  namespace: web\n  labels:\n" + mark + "    canary: true\n", Error, "metadata.labels.canary", "true", "quotes"},
		"spec misspelt":                 {"spec:\n", mark + "specs:\n", Warning, "specs", "", "did you mean spec?"},
		// spec
		"provider misspelt":         {"provider: azure", mark + "provider: azur", Error, "spec.provider", "azur", "did you mean azure?"},
		"provider's long name":      {"provider: azure", mark + "provider: azure-keyvault", Error, "spec.provider", "azure-keyvault", "did you mean azure?"},
		"provider's key misspelt":   {"  provider: azure", mark + "  provder: azure", Warning, "spec.provder", "azure", "did you mean provider?"},
		"parameters misspelt":       {"  parameters:\n", mark + "  parametrs:\n", Warning, "spec.parametrs", "", "did you mean parameters?"},
		"secretObjects misspelt":    {"  secretObjects:", mark + "  secretObject:", Warning, "spec.secretObject", "", "did you mean secretObjects?"},
		"parameter beside spec's":   {"  provider: azure\n", "  provider: azure\n" + mark + "  keyvaultName: x\n", Warning, "spec.keyvaultName", "x", "below spec.parameters"},
		"secretObjects' wrong home": {vault, vault + mark + "    secretObjects: []\n", Error, "secretObjects", "", "below spec, beside parameters"},
		// YAML
		"a tab":                    {vault, mark + "\tkeyvaultName: contoso-shop\n", Error, "", "", "write spaces"},
		"no space behind a colon":  {vault, mark + "    keyvaultName:contoso-shop\n", Error, "", "", "KEY: VALUE"},
		"no colon":                 {vault, mark + "    keyvaultName contoso-shop\n", Error, "", "", "KEY: VALUE"},
		"a quote that stays open":  {vault, mark + "    keyvaultName: \"contoso-shop\n", Error, "", "", "close the quote"},
		"too far to the left":      {tenant, mark + "   tenantID: 11111111-2222-3333-4444-555555555555\n", Error, "", "", "indentation"},
		"two colons":               {vault, mark + "    keyvaultName: contoso: shop\n", Error, "", "", "quotes"},
		"a key twice":              {tenant, tenant + mark + "    tenantID: 11111111-2222-3333-4444-555555555555\n", Error, "tenantID", "11111111-2222-3333-4444-555555555555", "remove one"},
		"objects twice":            {"    objects: |\n", "    objects: x\n" + mark + "    objects: |\n", Error, "objects", "array: - | objectName: db-password objectType: secret - | objectName: web-tls objectType: secret …", "remove one"},
		"an item's key twice":      {db, db + mark + "          objectType: secret\n", Error, "objects[0].objectType", "", "remove one"},
		"a Secret's key twice":     {"          key: password\n", "          key: password\n" + mark + "          key: pw\n", Error, "key", "pw", "remove one"},
		"array twice":              {"        - |\n          objectName: web-tls\n", mark + "      array:\n        - |\n          objectName: web-tls\n", Error, "objects", "", "merge them"},
		"a tab in the objects":     {db, mark + "\t  objectType: secret\n", Error, "", "", "write spaces"},
		"an object's indentation":  {db, mark + "           objectType: secret\n", Error, "objects[0]", "", ""},
		"an object without colons": {db, mark + "          objectType secret\n", Error, "objects[0]", "", ""},
		// parameters
		"parameter in another case": {vault, mark + "    keyVaultName: contoso-shop\n", Warning, "keyVaultName", "contoso-shop", "did you mean keyvaultName?"},
		"parameter misspelt":        {client, mark + "    clientId: 66666666-7777-8888-9999-aaaaaaaaaaaa\n", Warning, "clientId", "66666666-7777-8888-9999-aaaaaaaaaaaa", "did you mean clientID?"},
		"parameter shortened":       {tenant, mark + "    tenant: 11111111-2222-3333-4444-555555555555\n", Warning, "tenant", "11111111-2222-3333-4444-555555555555", "did you mean tenantI"},
		"parameter is a boolean":    {client, mark + "    useVMManagedIdentity: true\n", Error, "useVMManagedIdentity", "true", `write useVMManagedIdentity: "true"`},
		"vault's URL as its name":   {vault, mark + "    keyvaultName: https://contoso-shop.vault.azure.net/\n", Error, "keyvaultName", "https://contoso-shop.vault.azure.net/", "first part of the vault's host name"},
		"vault's host as its name":  {vault, mark + "    keyvaultName: contoso-shop.vault.azure.net\n", Error, "keyvaultName", "contoso-shop.vault.azure.net", "first part"},
		"vault's name with _":       {vault, mark + "    keyvaultName: contoso_shop\n", Error, "keyvaultName", "contoso_shop", "letters, digits and hyphens"},
		"vault's name too long":     {vault, mark + "    keyvaultName: contoso-shop-production-europe\n", Error, "keyvaultName", "contoso-shop-production-europe", "3 to 24"},
		"vault's name of a digit":   {vault, mark + "    keyvaultName: 1contoso\n", Warning, "keyvaultName", "1contoso", "first part"},
		"vault's name with --":      {vault, mark + "    keyvaultName: contoso--shop\n", Warning, "keyvaultName", "contoso--shop", "first part"},
		"no vault":                  {"  parameters:\n" + vault, "  parameters:\n" + mark, Error, "keyvaultName", "", "write the vault's name"},
		"vault's URI without https": {vault, mark + "    keyvaultURI: http://contoso.vault.azure.net/\n", Error, "keyvaultURI", "http://contoso.vault.azure.net/", "https://HOST/"},
		"vault's URI of a cloud":    {vault, mark + "    keyvaultURI: https://contoso.vault.azure.cn/\n", Error, "keyvaultURI", "https://contoso.vault.azure.cn/", "vault.azure.net"},
		"vault's name and URI":      {vault, vault + mark + "    keyvaultURI: https://contoso-shop.vault.azure.net/\n", Error, "keyvaultURI", "https://contoso-shop.vault.azure.net/", "keep one"},
		"cloud misspelt":            {vault, vault + mark + "    cloudName: AzurePublic\n", Error, "cloudName", "AzurePublic", "AzurePublicCloud"},
		"no tenant":                 {"  parameters:\n" + vault + tenant, "  parameters:\n" + mark + vault, Error, "tenantID", "", "GUID"},
		"tenant is no GUID":         {tenant, mark + "    tenantID: 11111111-2222-3333-4444-55555555555\n", Warning, "tenantID", "11111111-2222-3333-4444-55555555555", "GUID"},
		"tenant's placeholder":      {tenant, mark + "    tenantID: <your tenant>\n", Error, "tenantID", "<your tenant>", "directory's id"},
		"tenant is common":          {tenant, mark + "    tenantID: common\n", Warning, "tenantID", "common", "GUID"},
		"tenants that differ":       {tenant, tenant + mark + "    tenantId: 99999999-2222-3333-4444-555555555555\n", Warning, "tenantId", "99999999-2222-3333-4444-555555555555", "remove tenantId"},
		"client is no GUID":         {client, mark + "    clientID: shop-identity\n", Warning, "clientID", "shop-identity", "GUID"},
		"client is the tenant":      {client, mark + "    clientID: 11111111-2222-3333-4444-555555555555\n", Warning, "clientID", "11111111-2222-3333-4444-555555555555", "client id"},
		"client is zero":            {client, mark + "    clientID: 00000000-0000-0000-0000-000000000000\n", Warning, "clientID", "00000000-0000-0000-0000-000000000000", "GUID"},
		"client in a shell's form":  {client, mark + "    clientID: ${CLIENT_ID}\n", Error, "clientID", "${CLIENT_ID}", "GUID"},
		"Pod identity":              {client, client + mark + "    usePodIdentity: \"true\"\n", Error, "usePodIdentity", "true", "workload identity"},
		"client of the node":        {client, "    useVMManagedIdentity: \"true\"\n" + mark + client, Warning, "clientID", "66666666-7777-8888-9999-aaaaaaaaaaaa", "userAssignedIdentityID"},
		"identity's name":           {client, "    useVMManagedIdentity: \"true\"\n" + mark + "    userAssignedIdentityID: shop-identity\n", Warning, "userAssignedIdentityID", "shop-identity", "GUID"},
		"identity's resource":       {client, "    useVMManagedIdentity: \"true\"\n" + mark + "    userAssignedIdentityID: /subscriptions/x/identities/shop\n", Error, "userAssignedIdentityID", "/subscriptions/x/identities/shop", "/subscriptions/"},
		"identity without the flag": {client, client + mark + "    userAssignedIdentityID: 66666666-7777-8888-9999-bbbbbbbbbbbb\n", Warning, "userAssignedIdentityID", "66666666-7777-8888-9999-bbbbbbbbbbbb", "useVMManagedIdentity"},
		"not a boolean":             {client, client + mark + "    useVMManagedIdentity: \"yes\"\n", Error, "useVMManagedIdentity", "yes", `"true" or "false"`},
		"binding without a client":  {"  parameters:\n" + vault + tenant + client, "  parameters:\n" + mark + "    useAzureTokenProxy: \"true\"\n" + vault + tenant, Error, "clientID", "", "GUID"},
		"interval without a unit":   {client, client + mark + "    rotationInterval: \"120\"\n", Error, "rotationInterval", "120", "30s, 2m or 1h"},
		"interval too short":        {client, client + mark + "    rotationInterval: 1s\n", Error, "rotationInterval", "1s", "at least that"},
		"stale for days":            {client, client + mark + "    staleIfError: 2d\n", Error, "staleIfError", "2d", "1h"},
		"mode of the class":         {client, client + mark + "    filePermission: \"0888\"\n", Error, "filePermission", "0888", "octal"},
		// objects
		"no block":                {"    objects: |\n", mark + "    objects:\n", Error, "objects", "", "write | behind objects:"},
		"no array":                {"      array:\n        - |\n", mark + "        - |\n", Error, "objects", "", "array"},
		"array misspelt":          {"      array:\n", mark + "      arrays:\n", Error, "objects", "", "array"},
		"no block in an item":     {"        - |\n          objectName: db-password\n", mark + "        - objectName: db-password\n", Error, "objects[0]", "", "put a |"},
		"objects are empty":       {"      array:\n        - |\n          objectName: db-password\n          objectType: secret\n        - |\n          objectName: web-tls\n          objectType: secret\n          objectAlias: tls/server.pem\n", mark + "      array: []\n", Error, "objects", "", "add items"},
		"object's name with _":    {"objectName: db-password\n          objectType", mark + "objectName: db_password\n          objectType", Error, "objects[0].objectName", "db_password", "objectAlias"},
		"object's URL":            {"objectName: db-password\n          objectType", mark + "objectName: https://contoso.vault.azure.net/secrets/db\n          objectType", Error, "objects[0].objectName", "https://contoso.vault.azure.net/secrets/db", "letters, digits and hyphens"},
		"object's name misspelt":  {"objectName: db-password\n          objectType", mark + "objectname: db-password\n          objectType", Warning, "objects[0].objectname", "", "did you mean objectName?"},
		"no type":                 {"          objectName: db-password\n          objectType: secret\n", mark + "          objectName: db-password\n", Error, "objects[0].objectType", "", "secret, key or cert"},
		"type in upper case":      {db, mark + "          objectType: Secret\n", Error, "objects[0].objectType", "Secret", "lower case"},
		"type's long name":        {db, mark + "          objectType: certificate\n", Error, "objects[0].objectType", "certificate", "cert"},
		"alias shortened":         {"          objectAlias: tls", mark + "          alias: tls", Warning, "objects[1].alias", "", "did you mean objectAlias?"},
		"alias above":             {"          objectAlias: tls/server.pem", mark + "          objectAlias: ../server.pem", Error, "objects[1].objectAlias", "../server.pem", "relative path"},
		"alias from the root":     {"          objectAlias: tls/server.pem", mark + "          objectAlias: /etc/server.pem", Error, "objects[1].objectAlias", "/etc/server.pem", "relative path"},
		"two of one path":         {"          objectAlias: tls/server.pem", mark + "          objectAlias: db-password", Error, "objects[1].objectAlias", "db-password", "another objectAlias"},
		"file and directory":      {"          objectAlias: tls/server.pem", mark + "          objectAlias: db-password/server.pem", Error, "objects[1].objectAlias", "db-password/server.pem", "another objectAlias"},
		"version's number":        {db, db + mark + "          objectVersion: \"3\"\n", Warning, "objects[0].objectVersion", "3", "latest"},
		"version's digits":        {db, db + mark + "          objectVersion: 0123456789abcdef0123456789abcde\n", Warning, "objects[0].objectVersion", "0123456789abcdef0123456789abcde", "copy"},
		"version's URL":           {db, db + mark + "          objectVersion: secrets/db/1\n", Error, "objects[0].objectVersion", "secrets/db/1", "32 digits"},
		"negative history":        {db, db + mark + "          objectVersionHistory: -1\n", Warning, "objects[0].objectVersionHistory", "-1", "how many"},
		"history in words":        {db, db + mark + "          objectVersionHistory: all\n", Error, "objects[0].objectVersionHistory", "all", "how many"},
		"unknown format":          {db, db + mark + "          objectFormat: p12\n", Error, "objects[0].objectFormat", "p12", "pem, pfx or ca"},
		"unknown encoding":        {db, db + mark + "          objectEncoding: utf8\n", Error, "objects[0].objectEncoding", "utf8", "utf-8"},
		"PFX of a certificate":    {db, "          objectType: cert\n" + mark + "          objectFormat: pfx\n", Error, "objects[0].objectFormat", "pfx", "objectType: secret"},
		"mode in letters":         {db, db + mark + "          filePermission: u=rw\n", Error, "objects[0].filePermission", "u=rw", "0400"},
		"mode in decimal":         {db, db + mark + "          filePermission: 420\n", Warning, "objects[0].filePermission", "420", "did you mean 0644?"},
		"mode without any reader": {db, db + mark + "          filePermission: \"0000\"\n", Warning, "objects[0].filePermission", "0000", "0400"},
		"owner by name":           {db, db + mark + "          fileOwner: app\n", Error, "objects[0].fileOwner", "app", "whole number"},
		"selector's pattern":      {"objectName: db-password\n          objectType: secret\n", "objectType: secret\n          objectSelector:\n" + mark + "            name: /(/\n", Error, "objectSelector.name", "/(/", "glob"},
		"field's expression":      {db, db + "          jmesPath:\n" + mark + "            - path: \"a[\"\n              objectAlias: a\n", Error, "jmesPath[0]", "a[", ""},
		"second YAML document":    {"        - |\n          objectName: web-tls\n", mark + "      ---\n        - |\n          objectName: web-tls\n", Warning, "objects", "", "---"},
		"a comment without space": {"          objectType: secret\n", mark + "          objectType: secret#db\n", Error, "objects[0].objectType", "secret#db", "secret, key or cert"},
		// Secrets
		"Secret's name with _":     {"secretName: shop-db", mark + "secretName: shop_db", Warning, "secretObjects[0].secretName", "shop_db", "lower-case"},
		"no Secret's name":         {"    - secretName: shop-db\n      type: Opaque\n", mark + "    - type: Opaque\n", Warning, "secretObjects[0].secretName", "", "lower-case"},
		"Secret's type in lower":   {"type: Opaque", mark + "type: opaque", Warning, "secretObjects[0].type", "opaque", "did you mean Opaque?"},
		"Secret's field misspelt":  {"      data:\n", mark + "      datas:\n", Warning, "secretObjects[0].datas", "", "did you mean data?"},
		"file that is not mounted": {"- objectName: db-password\n          key", mark + "- objectName: db-pasword\n          key", Warning, "data[0].objectName", "db-pasword", "did you mean db-password?"},
		"name in place of alias":   {"- objectName: db-password\n          key", mark + "- objectName: web-tls\n          key", Warning, "data[0].objectName", "web-tls", "tls/server.pem"},
		"Secret's key with spaces": {"key: password", mark + "key: my password", Warning, "data[0].key", "my password", "letters"},
		"no key":                   {"        - objectName: db-password\n          key: password\n", mark + "        - objectName: db-password\n", Warning, "data[0].key", "", "letters"},
		"TLS Secret without a key": {"      type: Opaque\n      data:\n", "      type: kubernetes.io/tls\n" + "      data:\n" + mark, Warning, "secretObjects[0].data", "", "add it"},
		"Secret's name in data":    {"          key: password\n", "          key: password\n" + mark + "          secretName: other\n", Warning, "data[0].secretName", "other", "beside data"},
		"Secrets are no list":      {"    - secretName: shop-db\n      type: Opaque\n      data:\n        - objectName: db-password\n          key: password\n", mark + "    secretName: shop-db\n", Error, "spec.secretObjects", "", "dash"},
	} {
		t.Run(name, func(t *testing.T) { m.check(t, shop) })
	}
}
