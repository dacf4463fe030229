package docs

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/keyvault-csi/keyvault-csi-driver/test/binaries"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator/emulatortest"
)

// composeFile is the part of the Compose specification that the example uses.
type composeFile struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Command     []string          `yaml:"command"`
		User        string            `yaml:"user"`
		CapDrop     []string          `yaml:"cap_drop"`
		ReadOnly    bool              `yaml:"read_only"`
		Ports       []string          `yaml:"ports"`
		Volumes     []string          `yaml:"volumes"`
		Environment map[string]string `yaml:"environment"`
		Healthcheck struct {
			Test     []string `yaml:"test"`
			Interval string   `yaml:"interval"`
			Retries  int      `yaml:"retries"`
		} `yaml:"healthcheck"`
		DependsOn map[string]struct {
			Condition string `yaml:"condition"`
		} `yaml:"depends_on"`
	} `yaml:"services"`
	Volumes map[string]any `yaml:"volumes"`
}

// parses fails unless the emulator takes the words as its arguments.
func parses(t *testing.T, words ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binaries.Emulator(t), append(words, "--help")...).CombinedOutput() //nolint:gosec // the test's own
	if err != nil || !strings.Contains(string(out), "Usage:") {
		t.Errorf("keyvault-emulator %q: %v\n%s", words, err, out)
	}
}

// emulatorImage is the name of the image that `make image` makes.
func emulatorImage(t *testing.T) string {
	t.Helper()
	image, _ := values(t)["emulator"].(map[string]any)["image"].(map[string]any)
	text, err := os.ReadFile(filepath.Join(pages.Root, "deploy/chart/Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^appVersion: *"?([^"\n]*)`).FindSubmatch(text)
	return image["repository"].(string) + ":" + string(version[1]) //nolint:forcetypeassert // it is there
}

// TestComposeExample: it has fields of Compose alone, arguments that the emulator takes, the variables that `env` prints, and a seed that is good.
func TestComposeExample(t *testing.T) {
	dir := filepath.Join(pages.Root, "deploy/examples/emulator")
	text, err := os.ReadFile(filepath.Join(dir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var compose composeFile
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&compose); err != nil {
		t.Fatal(err)
	}
	service, app := compose.Services["emulator"], compose.Services["app"]
	if service.Image != emulatorImage(t) {
		t.Errorf("the image is %s: make image makes %s", service.Image, emulatorImage(t))
	}
	parses(t, service.Command...)
	if test := service.Healthcheck.Test; len(test) < 3 || test[0] != "CMD" || test[1] != "/keyvault-emulator" {
		t.Errorf("the health check runs %q", test)
	} else {
		parses(t, test[2:]...)
	}
	if app.DependsOn["emulator"].Condition != "service_healthy" {
		t.Errorf("the app waits for %+v", app.DependsOn)
	}
	for _, volume := range slices.Concat(service.Volumes, app.Volumes) {
		source, target, _ := strings.Cut(volume, ":")
		target, _, _ = strings.Cut(target, ":")
		if _, named := compose.Volumes[source]; !named && source != "." {
			t.Errorf("%s is no volume", source)
		}
		if target != "/seed" && target != "/authority" {
			t.Errorf("%s is mounted at %s", source, target)
		}
	}

	seedFile := filepath.Join(dir, "seed.yaml")
	seed, err := os.ReadFile(seedFile)
	if err != nil {
		t.Fatal(err)
	}
	server := emulatortest.Start(t, string(seed))
	tls := t.TempDir()
	authority := filepath.Join(tls, "ca.pem")
	if err := os.WriteFile(authority, server.CAPEM(), 0o600); err != nil { //nolint:gosec // the test's own
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binaries.Emulator(t), "env", "--output=json", "--tls-dir", tls, "--seed", seedFile).Output() //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	var printed map[string]string
	if err := json.Unmarshal([]byte(strings.NewReplacer("http://127.0.0.1:8200", "http://emulator:8200", authority, "/authority/ca.pem").Replace(string(out))), &printed); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(printed, app.Environment) {
		t.Errorf("the app's environment is %v, env prints %v", app.Environment, printed)
	}
	r := server.Client()
	answer, err := r.Get("https://contoso.vault.azure.net/secrets/db-password?api-version=7.6") //nolint:noctx // the test ends it
	if err != nil || answer.StatusCode != 401 {
		t.Fatalf("%v, %v", answer, err)
	}
	_ = answer.Body.Close()
}

// TestTestcontainersNotes: image, arguments, port and paths of the page's snippets are the emulator's.
func TestTestcontainersNotes(t *testing.T) {
	_, text, _ := strings.Cut(pages.All(t)[filepath.Join(pages.Root, "docs/emulator.md")], "**With Testcontainers**")
	text, _, _ = strings.Cut(text, "\n## ")
	snippets := regexp.MustCompile("(?s)```(go|js|python|java)\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(snippets) != 4 {
		t.Fatalf("%d snippets", len(snippets))
	}
	server := emulatortest.Start(t, emulatortest.Seed)
	for _, snippet := range snippets {
		language, code := snippet[1], snippet[2]
		if image := regexp.MustCompile(`[a-z-]+\.invalid/[^"]*`).FindString(code); image != emulatorImage(t) {
			t.Errorf("%s: the image %s", language, image)
		}
		arguments := regexp.MustCompile(`--[a-z-]+=[^" ]+`).FindAllString(code, -1)
		if len(arguments) == 0 || !slices.Contains(arguments, "--listen=:8200") {
			t.Errorf("%s: arguments %q", language, arguments)
		}
		parses(t, arguments...)
		if !strings.Contains(code, `"/healthz"`) && !strings.Contains(code, `"keyvault-emulator listens on"`) {
			t.Errorf("%s: it does not wait for the emulator", language)
		}
	}
	for path, want := range map[string]string{"/healthz": `{"result":"ok"}` + "\n", "/ca.pem": string(server.CAPEM())} {
		answer, err := server.Client().Get("http://" + emulator.ControlHost + path) //nolint:noctx // the test ends it
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != 200 || body.String() != want {
			t.Errorf("%s: %s %s %v", path, answer.Status, &body, err)
		}
	}
}
