package cloud

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const stack = `{"name": "Corp", "activeDirectoryEndpoint": "https://adfs.corp.example/adfs", "keyVaultEndpoint": "https://vault.corp.example",
	"keyVaultDNSSuffix": "vault.corp.example", "resourceManagerEndpoint": "https://management.corp.example/"}`

func resolver(t *testing.T, fallback, dir string) *Resolver {
	t.Helper()
	r, err := NewResolver(fallback, dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"corp.json": stack, "sub/corp.json": stack, "bad.json": "{", "big.json": stack + strings.Repeat(" ", biggestFile),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "corp.json")
	if err := os.WriteFile(outside, []byte(stack), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	public := Cloud{"AzurePublicCloud", "https://login.microsoftonline.com/", "vault.azure.net", "https://vault.azure.net/.default"}
	government := Cloud{"AzureUSGovernmentCloud", "https://login.microsoftonline.us/", "vault.usgovcloudapi.net", "https://vault.usgovcloudapi.net/.default"}
	china := Cloud{"AzureChinaCloud", "https://login.chinacloudapi.cn/", "vault.azure.cn", "https://vault.azure.cn/.default"}
	corp := Cloud{"Corp", "https://adfs.corp.example/adfs/", "vault.corp.example", "https://vault.corp.example/.default"}
	r := resolver(t, "AzureUSGovernmentCloud", dir)
	for name, tc := range map[string]struct {
		cloud, file string
		want        Cloud
		err         string
	}{
		"the driver's":             {"", "", government, ""},
		"public":                   {"AzurePublicCloud", "", public, ""},
		"public, another spelling": {"azurecloud", "", public, ""},
		"government":               {"AZUREUSGOVERNMENT", "", government, ""},
		"China":                    {"AzureChinaCloud", "ignored.json", china, ""},
		"custom":                   {"AzureStackCloud", "corp.json", corp, ""},
		"custom, absolute":         {"azurestackcloud", filepath.Join(dir, "sub", "corp.json"), corp, ""},
		"Germany":                  {"AzureGermanCloud", "", Cloud{}, "closed in 2021"},
		"a typo":                   {"AzurePublikCloud", "", Cloud{}, "not a cloud"},
		"custom without file":      {"AzureStackCloud", "", Cloud{}, "needs cloudEnvFileName"},
		"missing":                  {"AzureStackCloud", "no.json", Cloud{}, "does not exist"},
		"not JSON":                 {"AzureStackCloud", "bad.json", Cloud{}, "not JSON"},
		"escape":                   {"AzureStackCloud", "../" + filepath.Base(filepath.Dir(outside)) + "/corp.json", Cloud{}, "not a readable file"},
		"absolute escape":          {"AzureStackCloud", outside, Cloud{}, "outside"},
		"link out of the place":    {"AzureStackCloud", "link.json", Cloud{}, "not a readable file"},
		"directory":                {"AzureStackCloud", "sub", Cloud{}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := r.Lookup(tc.cloud, tc.file)
			switch {
			case tc.err == "" && (err != nil || got != tc.want):
				t.Errorf("got %+v, %v", got, err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("got %+v, %v, want an error with %q", got, err, tc.err)
			}
		})
	}
	if _, err := r.Lookup("AzureStackCloud", "big.json"); err != nil {
		t.Errorf("a file whose rest is blank: %v", err)
	}
	if _, err := resolver(t, "AzurePublicCloud", "").Lookup("AzureStackCloud", "corp.json"); err == nil || !strings.Contains(err.Error(), "--cloud-config-dir") {
		t.Errorf("a driver without custom clouds: %v", err)
	}
	if _, err := NewResolver("AzureStackCloud", dir); err == nil {
		t.Error("a custom cloud as the driver's default is accepted")
	}
}

func TestFileIsReadAgainWhenItChanged(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "corp.json")
	r := resolver(t, "AzurePublicCloud", dir)
	for i, suffix := range []string{"one.example", "two.example"} {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(stack, "vault.corp.example", suffix)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			c, err := r.Lookup("AzureStackCloud", "corp.json")
			if err != nil || c.VaultSuffix != suffix {
				t.Errorf("got %+v, %v", c, err)
			}
		}
	}
}

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want Cloud
		err  string
	}{
		"whole": {stack, Cloud{"Corp", "https://adfs.corp.example/adfs/", "vault.corp.example", "https://vault.corp.example/.default"}, ""},
		"least": {`{"activeDirectoryEndpoint": "https://login.x.example/", "keyVaultDNSSuffix": ".Vault.X.example."}`,
			Cloud{"AzureStackCloud", "https://login.x.example/", "vault.x.example", "https://vault.x.example/.default"}, ""},
		"empty":              {`{}`, Cloud{}, "activeDirectoryEndpoint is not an https URL, such as https://login.example.com/; keyVaultDNSSuffix"},
		"not an object":      {`[]`, Cloud{}, "not JSON"},
		"plain HTTP":         {`{"activeDirectoryEndpoint": "http://login.x.example/", "keyVaultDNSSuffix": "x.example"}`, Cloud{}, "https URL"},
		"user in the URL":    {`{"activeDirectoryEndpoint": "https://u:p@login.x.example/", "keyVaultDNSSuffix": "x.example"}`, Cloud{}, "https URL"},
		"no host":            {`{"activeDirectoryEndpoint": "https://:443/", "keyVaultDNSSuffix": "x.example"}`, Cloud{}, "https URL"},
		"suffix with port":   {`{"activeDirectoryEndpoint": "https://l.example/", "keyVaultDNSSuffix": "x.example:443"}`, Cloud{}, "DNS suffix"},
		"suffix with colon":  {`{"activeDirectoryEndpoint": "https://l.example/", "keyVaultDNSSuffix": "x.example:"}`, Cloud{}, "DNS suffix"},
		"suffix with path":   {`{"activeDirectoryEndpoint": "https://l.example/", "keyVaultDNSSuffix": "x.example/a"}`, Cloud{}, "DNS suffix"},
		"suffix with a user": {`{"activeDirectoryEndpoint": "https://l.example/", "keyVaultDNSSuffix": "a@x.example"}`, Cloud{}, "DNS suffix"},
		"endpoint":           {`{"activeDirectoryEndpoint": "https://l.example/", "keyVaultDNSSuffix": "x.example", "keyVaultEndpoint": "x"}`, Cloud{}, "keyVaultEndpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tc.text))
			switch {
			case tc.err == "" && (err != nil || got != tc.want):
				t.Errorf("got %+v, %v", got, err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n")):
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{stack, "{}", "[]", `{"activeDirectoryEndpoint":"https://a.example","keyVaultDNSSuffix":"x.example:"}`,
		`{"activeDirectoryEndpoint":"https://[::1]/%2e%2e/","keyVaultDNSSuffix":"a..b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		for _, text := range []string{c.Authority, "https://v." + c.VaultSuffix + "/", c.Scope} {
			if u, err := url.Parse(text); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" {
				t.Errorf("%q gives %q", data, text)
			}
		}
		if u, _ := url.Parse("https://v." + c.VaultSuffix + "/"); u.Host != "v."+c.VaultSuffix || u.Port() != "" || u.Path != "/" {
			t.Errorf("%q gives the suffix %q", data, c.VaultSuffix)
		}
		if !strings.HasSuffix(c.Authority, "/") {
			t.Errorf("authority %q", c.Authority)
		}
	})
}
