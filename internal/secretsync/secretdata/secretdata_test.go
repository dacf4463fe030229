package secretdata

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

const canary = "canary-e5f1"

// made reads files that openssl made, one after the other.
func made(t testing.TB, names ...string) []byte {
	t.Helper()
	var all []byte
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("../../../provider/encode/testdata/pki", name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

func pfx(t testing.TB, name string) []byte {
	t.Helper()
	der, err := os.ReadFile(filepath.Join("../../../provider/encode/testdata/pfx", name+".pfx"))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(der))
}

// files makes a volume's files of paths and contents in turn.
func files(pairs ...any) (list []volume.File) {
	for i := 0; i+1 < len(pairs); i += 2 {
		data, ok := pairs[i+1].([]byte)
		if !ok {
			data = []byte(fmt.Sprint(pairs[i+1]))
		}
		list = append(list, volume.File{Path: fmt.Sprint(pairs[i]), Data: data})
	}
	return list
}

// object makes a secretObject of a type, and of files and keys in turn.
func object(kind string, pairs ...string) *v1.SecretObject {
	o := &v1.SecretObject{SecretName: "s", Type: kind}
	for i := 0; i+1 < len(pairs); i += 2 {
		o.Data = append(o.Data, v1.SecretObjectData{ObjectName: pairs[i], Key: pairs[i+1]})
	}
	return o
}

func text(pairs ...any) map[string]string {
	m := map[string]string{}
	for _, f := range files(pairs...) {
		m[f.Path] = string(f.Data)
	}
	return m
}

func TestBuild(t *testing.T) {
	pair := object("kubernetes.io/tls", "cert", "tls.crt", "cert", "tls.key")
	for name, tc := range map[string]struct {
		object *v1.SecretObject
		files  []volume.File
		want   map[string]string
	}{
		"keys of files":            {object("Opaque", "db", "password", "keys/api", "api"), files("db", "x", "keys/api", "y", "other", "z"), text("password", "x", "api", "y")},
		"one file, two keys":       {object("Opaque", "db", "a", "db", "b"), files("db", "x"), text("a", "x", "b", "x")},
		"spaces do not count":      {object("Opaque", " db ", " a\t"), files("db", "x"), text("a", "x")},
		"bytes stay as they are":   {object("Opaque", "db", "a"), files("db", "\x00\xff\r\n"), text("a", "\x00\xff\r\n")},
		"an empty file":            {object("Opaque", "db", "a"), files("db", ""), text("a", "")},
		"no type":                  {object("", "db", "a"), files("db", "x"), text("a", "x")},
		"a type of one's own":      {object("example.com/thing", "db", "a"), files("db", "x"), text("a", "x")},
		"no data":                  {object(""), files("db", "x", "keys/api", "y", "tls/a b@c.pem", "z"), text("db", "x", "keys.api", "y", "tls.a_b_c.pem", "z")},
		"no data and no files":     {object(""), nil, text()},
		"a history":                {object("", "token/0", "new", "token/1", "old"), files("token/0", "b", "token/1", "a"), text("new", "b", "old", "a")},
		"PKCS#8 RSA becomes PKCS1": {pair, files("cert", made(t, "rsa.key", "rsa.pem", "intermediate.pem")), text("tls.crt", made(t, "rsa.pem", "intermediate.pem"), "tls.key", made(t, "rsa.pkcs1.key"))},
		"PKCS#8 EC becomes SEC1":   {pair, files("cert", made(t, "ec.key", "ec.pem")), text("tls.crt", made(t, "ec.pem"), "tls.key", made(t, "ec.sec1.key"))},
		"Ed25519":                  {pair, files("cert", made(t, "ed25519.key", "ed25519.pem")), text("tls.crt", made(t, "ed25519.pem"), "tls.key", made(t, "ed25519.key"))},
		"PFX":                      {pair, files("cert", pfx(t, "openssl3")), text("tls.crt", made(t, "rsa.pem", "intermediate.pem", "root.pem"), "tls.key", made(t, "rsa.pkcs1.key"))},
		"ca.crt of the chain": {object("kubernetes.io/tls", "cert", "tls.crt", "cert", "tls.key", "cert", "ca.crt"),
			files("cert", made(t, "ec.key", "ec.pem", "intermediate.pem", "root.pem")),
			text("tls.crt", made(t, "ec.pem", "intermediate.pem", "root.pem"), "tls.key", made(t, "ec.sec1.key"), "ca.crt", made(t, "intermediate.pem", "root.pem"))},
		"ca.crt of its own": {object("kubernetes.io/tls", "c", "tls.crt", "k", "tls.key", "ca", "ca.crt"),
			files("c", made(t, "rsa.pem"), "k", made(t, "rsa.key"), "ca", made(t, "root.pem")),
			text("tls.crt", made(t, "rsa.pem"), "tls.key", made(t, "rsa.pkcs1.key"), "ca.crt", made(t, "root.pem"))},
		"another key beside the pair": {object("kubernetes.io/tls", "cert", "tls.crt", "cert", "tls.key", "store", "keystore.p12"),
			files("cert", made(t, "ec.key", "ec.pem"), "store", "raw"),
			text("tls.crt", made(t, "ec.pem"), "tls.key", made(t, "ec.sec1.key"), "keystore.p12", "raw")},
		"TLS of the only file": {object("kubernetes.io/tls"), files("web/server", made(t, "ec.key", "ec.pem")), text("tls.crt", made(t, "ec.pem"), "tls.key", made(t, "ec.sec1.key"))},
		"TLS of files of these names": {object("kubernetes.io/tls"), files("tls.crt", made(t, "ec.pem"), "tls.key", made(t, "ec.key")),
			text("tls.crt", made(t, "ec.pem"), "tls.key", made(t, "ec.sec1.key"))},
		"dockerconfigjson":             {object("kubernetes.io/dockerconfigjson", "d", ".dockerconfigjson"), files("d", `{"auths":{}}`), text(".dockerconfigjson", `{"auths":{}}`)},
		"dockerconfigjson of one file": {object("kubernetes.io/dockerconfigjson"), files("d", `{"auths":{}}`), text(".dockerconfigjson", `{"auths":{}}`)},
		"dockercfg":                    {object("kubernetes.io/dockercfg", "d", ".dockercfg"), files("d", `{}`), text(".dockercfg", `{}`)},
		"basic-auth":                   {object("kubernetes.io/basic-auth", "u", "username"), files("u", ""), text("username", "")},
		"ssh-auth":                     {object("kubernetes.io/ssh-auth", "k", "ssh-privatekey"), files("k", "key"), text("ssh-privatekey", "key")},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Build(tc.object, tc.files, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for key, value := range s.Data {
				got[key] = string(value)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			want := tc.object.Type
			if want == "" {
				want = "Opaque"
			}
			if s.Type != want || s.Labels[ManagedLabel] != "true" {
				t.Errorf("type %s, labels %v", s.Type, s.Labels)
			}
		})
	}
}

func TestLabelsAndAnnotations(t *testing.T) {
	o := object("", "f", "k")
	o.Labels = map[string]string{"app": "shop", ManagedLabel: "true"}
	o.Annotations = map[string]string{"example.com/Reload": "yes, any text"}
	s, err := Build(o, files("f", "x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"app": "shop", ManagedLabel: "true"}, s.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(o.Annotations, s.Annotations); diff != "" {
		t.Error(diff)
	}
	s.Labels["x"], s.Annotations["x"] = "y", "y"
	if len(o.Labels) != 2 || len(o.Annotations) != 1 {
		t.Error("the class was changed")
	}
}

func TestRefused(t *testing.T) {
	edited := func(edit func(*v1.SecretObject)) *v1.SecretObject {
		o := object("", "f", "k")
		edit(o)
		return o
	}
	tls := object("kubernetes.io/tls", "f", "tls.crt", "f", "tls.key")
	for name, tc := range map[string]struct {
		object *v1.SecretObject
		files  []volume.File
		reason volume.Reason
		want   string
	}{
		"no name":          {edited(func(o *v1.SecretObject) { o.SecretName = "" }), nil, volume.ReasonInvalidClass, `secretName "" is not a name`},
		"bad name":         {edited(func(o *v1.SecretObject) { o.SecretName = "A_b" }), nil, volume.ReasonInvalidClass, `secretName "A_b" is not a name`},
		"label's key":      {edited(func(o *v1.SecretObject) { o.Labels = map[string]string{"a b": "c"} }), nil, volume.ReasonInvalidClass, `labels "a b" is not a label's key`},
		"label's value":    {edited(func(o *v1.SecretObject) { o.Labels = map[string]string{"a": "b c"} }), nil, volume.ReasonInvalidClass, `labels a has "b c"`},
		"our label":        {edited(func(o *v1.SecretObject) { o.Labels = map[string]string{ManagedLabel: "false"} }), nil, volume.ReasonInvalidClass, "is the driver's own"},
		"annotation's key": {edited(func(o *v1.SecretObject) { o.Annotations = map[string]string{"a b": "c"} }), nil, volume.ReasonInvalidClass, `annotations "a b" is not`},
		"long annotations": {edited(func(o *v1.SecretObject) { o.Annotations = map[string]string{"a": strings.Repeat("x", 1<<18)} }), nil, volume.ReasonInvalidClass, "have 262145 bytes together"},
		"no such file":     {object("", "nope", "k"), nil, volume.ReasonInvalidClass, `data[0].objectName "nope" is not mounted by the class: write the alias of an object, or its name where it has none: "f"`},
		"no file":          {object("", "", "k"), nil, volume.ReasonInvalidClass, `data[0].objectName "" is not mounted`},
		"no key":           {object("", "f", ""), nil, volume.ReasonInvalidClass, `data[0].key "" is not a key`},
		"bad key":          {object("", "f", "a/b"), nil, volume.ReasonInvalidClass, `data[0].key "a/b" is not a key`},
		"dots":             {object("", "f", ".."), nil, volume.ReasonInvalidClass, `data[0].key ".." is not a key`},
		"key twice":        {object("", "f", "k", "f", "k"), nil, volume.ReasonInvalidClass, `data[1].key "k" is a duplicate`},
		"half a pair":      {object("kubernetes.io/tls", "f", "tls.crt"), nil, volume.ReasonInvalidClass, "data has no key tls.key, which a Secret of the type kubernetes.io/tls needs"},
		"dockerconfigjson": {object("kubernetes.io/dockerconfigjson", "f", "config.json"), nil, volume.ReasonInvalidClass, "data has no key .dockerconfigjson"},
		"dockercfg":        {object("kubernetes.io/dockercfg", "f", ".dockerconfigjson"), nil, volume.ReasonInvalidClass, "data has no key .dockercfg"},
		"basic-auth":       {object("kubernetes.io/basic-auth", "f", "user"), nil, volume.ReasonInvalidClass, "data has no key username and no key password"},
		"ssh-auth":         {object("kubernetes.io/ssh-auth", "f", "key"), nil, volume.ReasonInvalidClass, "data has no key ssh-privatekey"},
		"account":          {object("kubernetes.io/service-account-token", "f", "k"), nil, volume.ReasonInvalidClass, "gives access to the cluster itself"},
		"bootstrap token":  {object("bootstrap.kubernetes.io/token", "f", "k"), nil, volume.ReasonInvalidClass, "gives access to the cluster itself"},
		"Helm release":     {object(" helm.sh/release.v1 ", "f", "k"), nil, volume.ReasonInvalidClass, "gives access to the cluster itself"},
		"clash of keys":    {object(""), files("a/b", canary, "a.b", canary), volume.ReasonInvalidClass, `the files "a/b" and "a.b" would both be the key a.b`},
		"no key of a path": {object(""), files(strings.Repeat("x/", 130)+"y", canary), volume.ReasonInvalidClass, "cannot be a key"},
		"TLS of two files": {object("kubernetes.io/tls"), files("a", canary, "b", canary), volume.ReasonInvalidClass, "data has no key tls.crt and no key tls.key"},

		"encrypted key":        {tls, files("f", made(t, "rsa.pem", "rsa.encrypted.key")), volume.ReasonInvalidContent, `key tls.key from file "f": the private key is encrypted`},
		"legacy encrypted key": {tls, files("f", made(t, "rsa.pem", "rsa.legacy-encrypted.key")), volume.ReasonInvalidContent, `key tls.key from file "f": the private key is encrypted`},
		"no private key":       {tls, files("f", made(t, "rsa.pem")), volume.ReasonInvalidContent, `key tls.key from file "f": the file holds no private key`},
		"no certificate":       {tls, files("f", made(t, "rsa.key")), volume.ReasonInvalidContent, `key tls.crt from file "f": the file holds no certificate`},
		"curve":                {tls, files("f", made(t, "k256.pem", "k256.key")), volume.ReasonInvalidContent, `key tls.key from file "f": the private key`},
		"no PEM":               {tls, files("f", canary), volume.ReasonInvalidContent, "neither PEM nor PFX"},
		"PFX with a password":  {tls, files("f", pfx(t, "password")), volume.ReasonInvalidContent, "password"},
		"no JSON":              {object("kubernetes.io/dockerconfigjson", "f", ".dockerconfigjson"), files("f", canary), volume.ReasonInvalidContent, `key .dockerconfigjson from file "f": the value is not a JSON object`},
		"JSON, no object":      {object("kubernetes.io/dockercfg", "f", ".dockercfg"), files("f", `["`+canary+`"]`), volume.ReasonInvalidContent, "the value is not a JSON object"},
		"empty SSH key":        {object("kubernetes.io/ssh-auth", "f", "ssh-privatekey"), files("f", ""), volume.ReasonInvalidContent, "the value is empty"},
		"too much": {object("", "f", "a", "f", "b"), files("f", bytes.Repeat([]byte("x"), 1<<19+1)), volume.ReasonInvalidContent,
			"the values have 1048578 bytes together, a Secret takes 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			mounted := tc.files
			if mounted == nil {
				mounted = files("f", canary)
			}
			s, err := Build(tc.object, mounted, nil)
			if err == nil || s != nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v", s, err)
			}
			if volume.ReasonOf(err) != tc.reason {
				t.Errorf("reason %s", volume.ReasonOf(err))
			}
			if strings.Contains(err.Error(), canary) || strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q", err)
			}
			if mistakes := Check(tc.object, nil); tc.reason == volume.ReasonInvalidContent && len(mistakes) > 0 {
				t.Errorf("the class is good, and is told %v", mistakes)
			}
		})
	}
}

func TestEveryMistakeIsTold(t *testing.T) {
	o := object("kubernetes.io/tls", "nope", "a b", "f", "tls.crt")
	o.SecretName, o.Labels = "A", map[string]string{"a b": ""}
	_, err := Build(o, files("f", "x"), nil)
	if err == nil || strings.Count(err.Error(), ";") != 3 {
		t.Errorf("got %v", err)
	}
	o = object("kubernetes.io/tls", "f", "tls.crt", "f", "tls.key")
	if _, err = Build(o, files("f", "x"), nil); err == nil || strings.Count(err.Error(), ";") != 1 {
		t.Errorf("got %v", err)
	}
}

func TestPrint(t *testing.T) {
	key := []byte("key")
	o := object("", "a", "k")
	base := Hash(key, o, files("a", "1", "b", "2"))
	if Hash(key, o, files("a", "1", "b", "3")) != base {
		t.Error("a file that is not asked for counts")
	}
	for name, other := range map[string][32]byte{
		"value":      Hash(key, o, files("a", "2")),
		"key":        Hash([]byte("other"), o, files("a", "1")),
		"class":      Hash(key, object("", "a", "l"), files("a", "1")),
		"type":       Hash(key, object("x", "a", "k"), files("a", "1")),
		"moved byte": Hash(key, o, files("a", "", "1", "")),
	} {
		if other == base {
			t.Errorf("another %s gives the same print", name)
		}
	}
	all := object("")
	if Hash(key, all, files("a", "1", "b", "2")) == Hash(key, all, files("a", "1", "b", "3")) {
		t.Error("without data every file counts")
	}
	// a length goes before each part, so that no two lists of files look the same
	if Hash(key, all, files("a", "bc")) == Hash(key, all, files("ab", "c")) {
		t.Error("the border between path and value does not count")
	}
}

func TestNothingPrintsValues(t *testing.T) {
	s, err := Build(object("", "f", "k"), files("f", canary), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, s); strings.Contains(text, canary) || strings.Contains(text, "99 97 110 97 114 121") {
		t.Error(text)
	}
}

// FuzzBuild: whatever the files hold, a Secret is one that the API server takes, or an error of one line.
func FuzzBuild(f *testing.F) {
	f.Add("kubernetes.io/tls", "f", "tls.crt", made(f, "rsa.key", "rsa.pem"))
	f.Add("kubernetes.io/tls", "f", "tls.key", pfx(f, "keyvault"))
	f.Add("kubernetes.io/dockerconfigjson", "f", ".dockerconfigjson", []byte(`{"auths":{}}`))
	f.Add("kubernetes.io/ssh-auth", "f", "ssh-privatekey", []byte("x"))
	f.Add("", "a/b", "", []byte{0})
	f.Add("", "\nj", "tls.crt", []byte("x"))
	f.Fuzz(func(t *testing.T, kind, path, key string, value []byte) {
		for _, o := range []*v1.SecretObject{object(kind), object(kind, path, key), object(kind, path, key, path, "tls.key")} {
			s, err := Build(o, files(path, value), nil)
			if err != nil {
				if _, ok := errors.AsType[*volume.Error](err); !ok || strings.ContainsAny(err.Error(), "\n\r") {
					t.Errorf("%q", err)
				}
				continue
			}
			if len(s.Data) == 0 {
				t.Error("a Secret without a key")
			}
			for _, needed := range needs()[s.Type] {
				if _, ok := s.Data[needed]; !ok && s.Type != TypeBasicAuth {
					t.Errorf("%s lacks %s", s.Type, needed)
				}
			}
		}
	})
}

// The sources of a Secret are those of the files that it takes, of a template's file all that the template read.
func TestUsedSources(t *testing.T) {
	key := func(name string) volume.SourceKey {
		return volume.SourceKey{Vault: "https://kv/", Kind: "secret", Name: name}
	}
	list := files("a", "1", "b", "2", "made", "12", "other", "x")
	list[0].Source, list[1].Source, list[3].Source = key("a"), key("b"), key("other")
	list[2].Source, list[2].Others = key("a"), []volume.SourceKey{key("b")}
	sources := []volume.Source{{Key: key("a")}, {Key: key("b")}, {Key: key("other")}}
	for file, want := range map[string]string{"a": "a", "made": "a b", "other": "other"} {
		var got []string
		for _, s := range Used(object("Opaque", file, "key"), list, sources) {
			got = append(got, s.Key.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", file, got, want)
		}
	}
}

// An optional object that does not exist leaves its key out, and keeps a Secret away that cannot be without it.
func TestAbsentFiles(t *testing.T) {
	o := object("", "db", "password", "extra", "more")
	s, err := Build(o, files("db", "x"), []string{"extra"})
	if err != nil || len(s.Data) != 1 || string(s.Data["password"]) != "x" {
		t.Errorf("%v, %v", s, err)
	}
	if len(o.Data) != 2 {
		t.Errorf("the class's own entry was changed: %v", o.Data)
	}
	for name, tc := range map[string]struct {
		object *v1.SecretObject
		files  []volume.File
		absent []string
	}{
		"nothing is left":           {object("", "extra", "more"), files("db", "x"), []string{"extra"}},
		"the type needs what lacks": {object("kubernetes.io/ssh-auth", "extra", "ssh-privatekey", "db", "other"), files("db", "x"), []string{"extra"}},
	} {
		if _, err := Build(tc.object, tc.files, tc.absent); volume.ReasonOf(err) != volume.ReasonNotFound || !strings.Contains(err.Error(), `"extra"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// without data every file that is there is a key
	if s, err := Build(object(""), files("db", "x"), []string{"extra"}); err != nil || len(s.Data) != 1 {
		t.Errorf("%v, %v", s, err)
	}
}
