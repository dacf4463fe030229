package docs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	sigsyaml "sigs.k8s.io/yaml"

	syncv1alpha1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/secretsync/v1alpha1"
	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// documents returns each document of the page's yaml blocks, as JSON.
func documents(t *testing.T, path, text string) (all [][]byte) {
	t.Helper()
	for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
		decoder := yaml.NewDecoder(strings.NewReader(block[1]))
		for {
			var doc yaml.Node
			if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v in\n%s", path, err, block[1])
				break
			}
			data, err := yaml.Marshal(&doc)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data)
		}
	}
	return all
}

// Every YAML document of the documentation is what its reader takes: Kubernetes' kinds and classes decode strictly;
// what has no kind is an emulator's seed or values of the chart.
func TestYAMLOfTheDocumentationIsStrictlyGood(t *testing.T) {
	strict := serializer.NewCodecFactory(clientscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	chart := values(t)
	kinds := map[string]int{}
	for path, text := range pages.All(t) {
		for _, doc := range documents(t, path, text) {
			var head struct{ APIVersion, Kind string }
			if err := sigsyaml.Unmarshal(doc, &head); err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			kinds[head.Kind]++
			var err error
			switch head.Kind {
			case "SecretProviderClass":
				err = sigsyaml.UnmarshalStrict(doc, &v1.SecretProviderClass{})
			case "SecretSync":
				err = sigsyaml.UnmarshalStrict(doc, &syncv1alpha1.SecretSync{})
			case "":
				if _, seedErr := emulator.ParseSeed(doc); seedErr != nil {
					err = valuesError(chart, doc)
				}
			case "Application", "HelmRelease": // of Argo CD and Flux, whose types are not at hand
			default:
				_, _, err = strict.Decode(doc, nil, nil)
				if runtime.IsNotRegisteredError(err) {
					t.Errorf("%s: an unchecked kind: %v", path, err)
					continue
				}
			}
			if err != nil {
				t.Errorf("%s: %v in\n%s", path, err, doc)
			}
		}
	}
	if kinds["SecretProviderClass"] < 8 || kinds["Pod"] < 2 || kinds[""] < 1 {
		t.Errorf("only %v", kinds)
	}
}

// valuesError says which of a document's names are no values of the chart.
func valuesError(chart map[string]any, doc []byte) error {
	var given map[string]any
	decoder := yaml.NewDecoder(bytes.NewReader(doc))
	if err := decoder.Decode(&given); err != nil {
		return err
	}
	return unknownValues(chart, given, "")
}

func unknownValues(known, given map[string]any, below string) error {
	for key, value := range given {
		have, ok := known[key]
		if !ok {
			return fmt.Errorf("the chart has no value %s", below+key)
		}
		inner, isMap := value.(map[string]any)
		if outer, ok := have.(map[string]any); ok && isMap && len(outer) > 0 {
			if err := unknownValues(outer, inner, below+key+"."); err != nil {
				return err
			}
		}
	}
	return nil
}
