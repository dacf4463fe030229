// Command strict decodes manifests of Kubernetes as the API types of one version have them: a field, a kind or a version that these types
// do not know is an error. go.mod has the types of the oldest version that the project supports, the other .mod files those of newer ones.
//
//	strict FILE...
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// largest bounds one document.
const largest = 1 << 20

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "strict:", err)
		os.Exit(1)
	}
}

func run(files []string) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistrationv1.AddToScheme,
		apiextensionsv1.AddToScheme,
		appsv1.AddToScheme,
		corev1.AddToScheme,
		networkingv1.AddToScheme,
		rbacv1.AddToScheme,
		storagev1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var wrong []error
	for _, file := range files {
		objects, err := decode(file, decoder)
		if err == nil && objects == 0 {
			err = errors.New("there is no object in it")
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", file, err))
		}
	}
	return errors.Join(wrong...)
}

// decode returns how many objects the file has.
func decode(file string, decoder runtime.Decoder) (objects int, err error) {
	text, err := os.Open(file) //nolint:gosec // the caller's choice
	if err != nil {
		return 0, err
	}
	documents := yaml.NewDocumentDecoder(text)
	defer func() { err = errors.Join(err, documents.Close()) }()
	document := make([]byte, largest)
	for {
		n, err := documents.Read(document)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return objects, err
		}
		var empty any
		if err := yaml.Unmarshal(document[:n], &empty); err != nil {
			return objects, err
		}
		if empty == nil { // only comments
			continue
		}
		if _, kind, err := decoder.Decode(document[:n], nil, nil); err != nil {
			return objects, fmt.Errorf("document %d (%v): %w", objects+1, kind, err)
		}
		objects++
	}
}
