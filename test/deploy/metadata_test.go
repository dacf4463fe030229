package deploy

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// project is the root of the project.
const project = "../.."

// repository is where the chart says that its sources are.
const repository = "https://github.com/keyvault-csi/keyvault-csi-driver"

// inRepository is the path of a file that an address of the chart's metadata names; empty where it names none.
func inRepository(address string) string {
	for _, prefix := range []string{repository + "/blob/main/", "https://raw.githubusercontent.com/keyvault-csi/keyvault-csi-driver/main/"} {
		if path, ok := strings.CutPrefix(address, prefix); ok {
			return filepath.Join(project, path)
		}
	}
	return ""
}

func readInto(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(project, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestWhatArtifactHubShows: the chart's metadata names files, images and kinds that exist, in the versions of the chart.
func TestWhatArtifactHubShows(t *testing.T) {
	var chart struct {
		Version, Home, Icon string
		AppVersion          string `yaml:"appVersion"`
		Sources, Keywords   []string
		Maintainers         []struct{ Name, URL string }
		Annotations         map[string]string
	}
	readInto(t, "deploy/chart/Chart.yaml", &chart)
	if chart.Home != repository || !slices.Contains(chart.Sources, repository) || len(chart.Keywords) < 5 || len(chart.Maintainers) == 0 {
		t.Errorf("%+v", chart)
	}
	annotation := func(name string, into any) {
		t.Helper()
		text, ok := chart.Annotations["artifacthub.io/"+name]
		if !ok {
			t.Errorf("no annotation %s", name)
		}
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var category, license, prerelease string
	annotation("category", &category)
	annotation("license", &license)
	annotation("prerelease", &prerelease)
	if category != "security" || license != "Apache-2.0" || (prerelease == "true") != strings.Contains(chart.Version, "-") {
		t.Error(category, license, prerelease)
	}

	addresses := []string{chart.Icon}
	for _, m := range chart.Maintainers {
		addresses = append(addresses, m.URL)
	}
	var links []struct{ Name, URL string }
	annotation("links", &links)
	for _, l := range links {
		addresses = append(addresses, l.URL)
	}
	for _, address := range addresses {
		if path := inRepository(address); path == "" {
			t.Errorf("%s is not in the repository", address)
		} else if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if len(links) < 3 {
		t.Errorf("only %d links", len(links))
	}

	var changes []struct{ Kind, Description string }
	annotation("changes", &changes)
	for _, c := range changes {
		if !slices.Contains([]string{"added", "changed", "deprecated", "removed", "fixed", "security"}, c.Kind) || c.Description == "" {
			t.Errorf("%+v", c)
		}
	}
	if len(changes) == 0 {
		t.Error("no changes")
	}

	var images []struct {
		Name, Image string
		Platforms   []string
	}
	annotation("images", &images)
	values := map[string]struct {
		Image struct{ Repository string }
	}{}
	var all map[string]yaml.Node
	readInto(t, "deploy/chart/values.yaml", &all)
	var want, got []string
	for _, part := range []string{"linux", "controller", "emulator"} {
		node, value := all[part], values[part]
		if err := node.Decode(&value); err != nil {
			t.Fatal(err)
		}
		want = append(want, value.Image.Repository+":"+chart.AppVersion)
	}
	for _, i := range images {
		got = append(got, i.Image)
		if !slices.Equal(i.Platforms, []string{"linux/amd64", "linux/arm64"}) {
			t.Errorf("%+v", i)
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("images are %v, those of the values are %v", got, want)
	}

	var kinds []struct{ Kind, Version, Name, DisplayName, Description string }
	annotation("crds", &kinds)
	crds, err := filepath.Glob(filepath.Join(project, "deploy/crds/*.yaml"))
	if err != nil || len(crds) != len(kinds) {
		t.Errorf("%d kinds are named, there are %d: %v", len(kinds), len(crds), err)
	}
	for _, path := range crds {
		var crd struct {
			Metadata struct{ Name string }
			Spec     struct {
				Names    struct{ Kind string }
				Versions []struct{ Name string }
			}
		}
		path, _ := filepath.Rel(project, path)
		readInto(t, path, &crd)
		known := false
		for _, k := range kinds {
			known = known || k.Name == crd.Metadata.Name && k.Kind == crd.Spec.Names.Kind && k.Version == crd.Spec.Versions[0].Name
		}
		if !known {
			t.Errorf("%s is not named, or otherwise", crd.Metadata.Name)
		}
	}
}

// The icon is one small file without references to other ones.
func TestTheIconIsAnImageOfItsOwn(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(project, "docs/images/icon.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 4<<10 || strings.Contains(string(data), "href") {
		t.Errorf("%d bytes", len(data))
	}
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
