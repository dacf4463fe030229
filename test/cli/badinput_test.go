package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Wrong command lines, files and clusters: each is one line with what to do, exit code 1 or 2, and ends by itself.
func TestWrongInputIsOneLine(t *testing.T) {
	t.Parallel()
	d := newSession(t)
	good := d.class("good", nil, "db")
	mistaken := d.class("mistaken", map[string]string{"keyvaultName": "k_v"}, "db")
	empty, text, binary := d.file("empty.yaml", ""), d.file("text.yaml", "hello world"), d.file("binary.yaml", "\x00\x01\xff\xfe")
	bomb := d.file("bomb.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"+
		"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nkind: SecretProviderClass\nspec: *f\n")
	deep := d.file("deep.yaml", strings.Repeat("[", 20_000))
	brokenConfig, emptyConfig := d.file("broken.kubeconfig", "{"), d.file("empty.kubeconfig", "")
	configs := 0
	configOf := func(address string) string {
		configs++
		path := filepath.Join(d.dir, fmt.Sprintf("kubeconfig-%d", configs))
		if err := os.Rename(kubeconfig(d, address), path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := func(handler http.HandlerFunc) string {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return configOf(s.URL)
	}
	html := config(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>login</html>")) })
	down := config(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	unauthorized := config(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who are you", http.StatusUnauthorized) })
	none := config(http.NotFound)
	refused := configOf("https://127.0.0.1:1")
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })

	cases := map[string]struct {
		args []string
		want string
	}{
		// command lines
		"unknown command":             {[]string{"valdate"}, "valdate"},
		"unknown flag":                {[]string{"check", "--nope"}, "unknown flag: --nope"},
		"flag without a value":        {[]string{"validate", "-f"}, "needs an argument"},
		"not a duration":              {[]string{"check", "-f", good, "--timeout", "fast"}, `"fast"`},
		"negative duration":           {[]string{"check", "-f", good, "--timeout", "-1s"}, "not positive"},
		"not a boolean":               {[]string{"validate", good, "--strict=perhaps"}, `"perhaps"`},
		"check of nothing":            {[]string{"check"}, "name a file with -f"},
		"preview of nothing":          {[]string{"preview"}, "name a file with -f"},
		"validate of nothing":         {[]string{"validate"}, "name a file, a directory or -"},
		"unknown format":              {[]string{"check", "-f", good, "-o", "xml"}, "use table, wide, json or yaml"},
		"unknown format of findings":  {[]string{"validate", good, "-o", "xml"}, "use text, table, wide, json, yaml, sarif or github"},
		"unknown format of version":   {[]string{"version", "-o", "xml"}, "use json"},
		"unknown format of status":    {[]string{"status", "-A", "-o", "xml"}, "use table"},
		"unknown format of fields":    {[]string{"explain", "-o", "xml"}, "use table"},
		"unknown field":               {[]string{"explain", "keyvaultNam"}, "keyvaultName"},
		"two identities":              {[]string{"check", "-f", good, "--as-class", "--service-account", "app"}, "mutually exclusive"},
		"a Pod and classes":           {[]string{"check", "-f", good, "--pod", "x"}, "mutually exclusive"},
		"all and one namespace":       {[]string{"check", "-A", "-n", "x"}, "mutually exclusive"},
		"a workload's kind":           {[]string{"check", "--workload", "service/x"}, "use deployment"},
		"annotations without account": {[]string{"check", "-f", good, "--service-account-annotations"}, "needs --service-account"},
		"files with a namespace":      {[]string{"validate", good, "-n", "x"}, "need --live"},
		"unknown cloud":               {[]string{"validate", good, "--cloud", "Mars"}, "use AzurePublicCloud"},
		"unknown rule":                {[]string{"validate", good, "--node-identity", "some"}, "write all, namespaces or none"},
		"an object's form":            {[]string{"status", "--object", "db"}, "write contoso/secret/db-password"},
		"an object's type":            {[]string{"status", "--object", "v/password/db"}, "secret, key or cert"},
		"expiring when":               {[]string{"status", "--expiring", "soon"}, "such as 30d"},
		"expiring never":              {[]string{"status", "--expiring", "-1d"}, "1d to 3650d"},
		"status with an argument":     {[]string{"status", "shop"}, `"shop"`},
		"no driver here":              {[]string{"status", "--admin-addr", "127.0.0.1:1"}, "127.0.0.1:1"},
		"no address":                  {[]string{"log-level", "--admin-addr", "a b"}, "--admin-addr"},
		"a class's form":              {[]string{"check", "a/b/c", "--kubeconfig", refused}, "write NAMESPACE/NAME"},
		"time of an archive":          {[]string{"support-bundle", "--timeout", "0s"}, "write one such as 2m"},
		"an archive's directory":      {[]string{"support-bundle", "--kubeconfig", refused, "--file", "/nowhere/x"}, ""},
		// files
		"no such file":             {[]string{"validate", "nope.yaml"}, "nope.yaml: no such file or directory: check the path"},
		"no such file of check":    {[]string{"check", "-f", "nope.yaml"}, "nope.yaml: no such file or directory: check the path"},
		"no such file of a Secret": {[]string{"check", "-f", good, "--node-publish-secret-file", "nope.yaml"}, "nope.yaml: no such file"},
		"no such authorities":      {[]string{"check", "-f", good, "--ca-file", "nope.pem"}, "nope.pem"},
		"authorities of text":      {[]string{"check", "-f", good, "--ca-file", text}, "text.yaml"},
		"no such clouds":           {[]string{"check", "-f", good, "--cloud", "AzureStackCloud", "--cloud-config-dir", "nope"}, "--cloud"},
		"empty name":               {[]string{"validate", "-f", ""}, ""},
		"empty file":               {[]string{"validate", empty}, "no SecretProviderClass was found"},
		"empty file of check":      {[]string{"check", "-f", empty}, "no SecretProviderClass was found"},
		"text":                     {[]string{"validate", text}, "write apiVersion, kind, metadata and spec"},
		"text of check":            {[]string{"check", "-f", text}, "write apiVersion, kind, metadata and spec"},
		"binary":                   {[]string{"validate", binary}, "is not YAML"},
		"binary of preview":        {[]string{"preview", "-f", binary}, "is not YAML"},
		"a bomb of aliases":        {[]string{"validate", bomb}, "error"},
		"brackets without end":     {[]string{"validate", deep}, "is not YAML"},
		"a device":                 {[]string{"validate", "/dev/null"}, "no SecretProviderClass was found"},
		"a Secret of text":         {[]string{"check", "-f", good, "--node-publish-secret-file", text}, "write clientid and clientsecret"},
		"a class with mistakes":    {[]string{"preview", "-f", mistaken}, "keyvaultName"},
		"a directory of nothing":   {[]string{"validate", os.TempDir() + "/nowhere"}, "check the path"},
		// clusters
		"no kubeconfig":               {[]string{"status", "-A", "--kubeconfig", "nope"}, "nope"},
		"broken kubeconfig":           {[]string{"status", "-A", "--kubeconfig", brokenConfig}, "kubeconfig"},
		"empty kubeconfig":            {[]string{"check", "-A", "--kubeconfig", emptyConfig}, "--kubeconfig"},
		"no such context":             {[]string{"status", "-A", "--kubeconfig", refused, "--context", "mars"}, "mars"},
		"connection refused":          {[]string{"status", "-A", "--kubeconfig", refused}, "127.0.0.1:1"},
		"refused check":               {[]string{"check", "-A", "--kubeconfig", refused}, "127.0.0.1:1"},
		"refused archive":             {[]string{"support-bundle", "--kubeconfig", refused}, "127.0.0.1:1"},
		"a login page":                {[]string{"check", "-A", "--kubeconfig", html}, "the API server's answer is not readable"},
		"a gateway":                   {[]string{"check", "--pod", "x", "--kubeconfig", down}, "pod default/x"},
		"no login":                    {[]string{"validate", "--live", "--kubeconfig", unauthorized}, "the API server"},
		"no CustomResourceDefinition": {[]string{"validate", "--live", "--kubeconfig", none}, "CustomResourceDefinitions are not installed"},
		"no such Pod":                 {[]string{"check", "--pod", "x", "--kubeconfig", none}, "correct the name or --namespace"},
		"no such workload":            {[]string{"check", "--workload", "x", "--kubeconfig", none}, "correct the name or --namespace"},
	}
	goError := regexp.MustCompile(`\b(lstat|stat|open|read|fork/exec) [^ ]*: |goroutine \d|panic|runtime error|\.go:\d`)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := d.in(t)
			r := d.run(nil, tc.args...)
			lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
			if lines[0] == "" || strings.HasSuffix(lines[0], " checked, 0 findings") || strings.Contains(lines[0], " checked, ") {
				lines = lines[1:] // findings are on the output, one a line
			}
			if len(lines) > 1 || len(lines) == 0 && r.stdout == "" {
				t.Errorf("%d lines of errors", len(lines))
			}
			if r.exit != 1 && r.exit != 2 || !strings.Contains(r.stdout+r.stderr, tc.want) || goError.MatchString(r.stdout+r.stderr) {
				t.Errorf("want %q", tc.want)
			}
			d.secretless(r)
			if t.Failed() {
				t.Error(r)
			}
		})
	}
	if len(cases) < 50 {
		t.Errorf("only %d cases", len(cases))
	}
	// a cluster that never answers is given up, and can be ended at any time
	hanging := configOf("http://" + silent.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := d.command(nil, "check", "-A", "--kubeconfig", hanging)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := silent.Accept() // it has asked
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Wait() // its exit code is looked at below
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Error("an interrupt does not end it")
	case <-ctx.Done():
	}
	if code := c.ProcessState.ExitCode(); code != 1 && code != 2 {
		t.Errorf("interrupted: exit %d", code)
	}
}
