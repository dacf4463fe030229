package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/identity"
	"github.com/keyvault-csi/keyvault-csi-driver/test/bench/plain/server"
)

// Hour is what one program asks for in an hour in which nothing changes.
type Hour struct {
	Program    string `json:"program"`
	Pods       int    `json:"pods"`
	Identities int    `json:"identities"`
	Vault      int    `json:"vaultRequests"`
	Entra      int    `json:"entraRequests"`
}

// TestFiguresOfASteadyHour has a node run for an hour of fake time while nothing changes, with the driver, and with the program that asks
// as the Azure provider does (test/bench/plain) at each interval for each Pod. kubelet's calls are made for both. For `make bench`, which
// sets FIGURES_JSON, there are larger nodes.
func TestFiguresOfASteadyHour(t *testing.T) {
	var all []Hour
	table := "| Pods | identities | program | requests to the vault in an hour | to Entra ID | ratio |\n|---|---|---|---|---|---|\n"
	shapes := []shape{{classes: 1, replicas: 20}}
	if os.Getenv("FIGURES_JSON") != "" {
		shapes = append(shapes, shape{classes: 20, replicas: 5}, shape{classes: 100, replicas: 1})
	}
	for _, s := range shapes {
		s.nodes, s.objects, s.interval = 1, 10, interval
		pods := s.classes * s.replicas
		inBubble(t, s, func(f *fleet) {
			p := startPlain(f)
			f.azure.reset()
			var work sync.WaitGroup
			for class := range s.classes {
				for replica := range s.replicas {
					f.later(&work, interval, func() {
						for range int(time.Hour / interval) {
							p.publish(class, replica)
							if err := f.nodes[0].publish(class, replica); err != nil {
								f.Error(err)
							}
							time.Sleep(interval)
						}
					})
				}
			}
			work.Wait()
			rounds := int(time.Hour / interval)
			vault, entra := p.azure.asked()
			if vault != rounds*pods*(1+s.objects) || entra != rounds*pods*3 {
				f.Errorf("the provider's way: %d and %d requests", vault, entra)
			}
			plain := vault + entra
			all = append(all, Hour{Program: "plain", Pods: pods, Identities: s.classes, Vault: vault, Entra: entra})
			table += fmt.Sprintf("| %d | %d | provider's way | %d | %d |  |\n", pods, s.classes, vault, entra)
			// The last Pod's hour begins up to an interval after the first one's.
			vault, entra = f.azure.asked()
			if vault > (rounds+2)*s.classes*s.objects || entra > 2*s.classes {
				f.Errorf("the driver: %d and %d requests", vault, entra)
			}
			all = append(all, Hour{Program: "driver", Pods: pods, Identities: s.classes, Vault: vault, Entra: entra})
			table += fmt.Sprintf("| %d | %d | this driver | %d | %d | %.1f |\n", pods, s.classes, vault, entra, float64(plain)/float64(vault+entra))
		})
	}
	t.Logf("A steady hour: ten secrets in each class, refreshed every %s\n%s", interval, table)
	saveHour(t, all)
}

// plain is the program that asks as the provider does, before an Azure of its own.
type plain struct {
	*fleet

	azure  *azure
	server *server.Server
	dir    string
}

func startPlain(f *fleet) *plain {
	f.Helper()
	p := &plain{fleet: f, azure: newAzure(), dir: f.TempDir()}
	p.server = &server.Server{Classes: p.dir, Transport: &http.Client{Transport: p.azure}}
	for class := range f.shape.classes {
		data, err := json.Marshal(f.class(class, nil))
		if err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.dir, strconv.Itoa(class)+".json"), data, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	return p
}

func (p *plain) publish(class, replica int) {
	p.Helper()
	tokens, err := json.Marshal(map[string]any{identity.ExchangeAudience: map[string]string{"token": p.jwt[class]}})
	if err != nil {
		p.Fatal(err)
	}
	_, err = p.server.NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{
		TargetPath:    filepath.Join(p.dir, fmt.Sprintf("volume-%d-%d", class, replica)),
		VolumeContext: map[string]string{"secretProviderClass": strconv.Itoa(class)},
		Secrets:       map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(tokens)},
	})
	if err != nil {
		p.Error(err)
	}
}

// saveHour adds the figures to those of `make bench` (FIGURES_JSON).
func saveHour(t *testing.T, hours []Hour) {
	t.Helper()
	path := os.Getenv("FIGURES_JSON")
	if path == "" || t.Failed() {
		return
	}
	all := map[string]any{}
	if data, err := os.ReadFile(path); err == nil { //nolint:gosec // the caller's choice
		if err := json.Unmarshal(data, &all); err != nil {
			t.Fatal(err)
		}
	}
	all["hour"] = hours
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
}
