// Package manifest reads SecretProviderClasses from YAML and JSON.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/util/yaml"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

// Decode returns the classes in YAML or JSON documents, those in Lists too; other kinds are passed over. Classes before
// a mistake are returned with the error.
func Decode(data []byte) (classes []*v1.SecretProviderClass, err error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for document := 1; ; document++ {
		var raw struct {
			v1.SecretProviderClass

			Items []v1.SecretProviderClass `json:"items"`
		}
		switch err := decoder.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return classes, nil
		case err != nil:
			return classes, fmt.Errorf("document %d: %w", document, err)
		}
		found := []*v1.SecretProviderClass{&raw.SecretProviderClass}
		for i := range raw.Items {
			found = append(found, &raw.Items[i])
		}
		for _, class := range found {
			switch {
			case class.Kind != "SecretProviderClass":
			case class.Name == "":
				return classes, fmt.Errorf("document %d: metadata.name is missing", document)
			default:
				classes = append(classes, class)
			}
		}
	}
}
