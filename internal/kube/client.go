package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
)

const (
	classResource  = "secretproviderclasses"
	statusResource = "secretproviderclasspodstatuses"

	// metadataOnly asks the API server for an object's metadata alone, so that no value comes back.
	metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

	// maxAnswer bounds an answer that is not a watch. A list of classes is asked for in pages far below it.
	maxAnswer = 64 << 20
)

// groupVersion is that of classes and status objects.
func groupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: "secrets-store.csi.x-k8s.io", Version: "v1"}
}

// client talks JSON to the API server about the project's own kinds, and about metadata of others. It knows no other types: a typed
// clientset would link those of all API groups.
type client struct{ rest rest.Interface }

// newClient returns a client without a limit of its own: the API server's priority and fairness is the limiter, whose 429 and
// Retry-After are honoured. Wrap may be nil.
func newClient(config *rest.Config, wrap func(http.RoundTripper) http.RoundTripper) (client, error) {
	gv := groupVersion()
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(gv, &v1.SecretProviderClass{}, &v1.SecretProviderClassList{},
		&v1.SecretProviderClassPodStatus{}, &v1.SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(scheme, gv)
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.GroupVersion, config.APIPath = &gv, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeJSON // custom resources have no protobuf
	config.AcceptContentTypes = runtime.ContentTypeJSON
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return limited{next} })
	if wrap != nil {
		config.Wrap(wrap)
	}
	made, err := rest.RESTClientFor(config)
	if err != nil {
		return client{}, fmt.Errorf("client of the API server: %w", err)
	}
	return client{made}, nil
}

// limited bounds answers.
type limited struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.next.RoundTrip(r)
	if err == nil && r.URL.Query().Get("watch") == "" {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}

// core is a request about a namespaced resource of the core group.
func core(r *rest.Request, namespace, resource string, names ...string) *rest.Request {
	return r.AbsPath(append([]string{"/api/v1/namespaces", namespace, resource}, names...)...)
}

// getMetadata returns the metadata of one object.
func (c client) getMetadata(ctx context.Context, namespace, resource, name string) (*metav1.PartialObjectMetadata, error) {
	return metadataOf(core(c.rest.Get(), namespace, resource, name).SetHeader("Accept", metadataOnly).Do(ctx))
}

// namespace returns the metadata of a namespace.
func (c client) namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	return metadataOf(c.rest.Get().AbsPath("/api/v1/namespaces", name).SetHeader("Accept", metadataOnly).Do(ctx))
}

// patchMetadata patches an object and returns its metadata.
func (c client) patchMetadata(ctx context.Context, namespace, resource, name string, kind types.PatchType, body []byte, o metav1.PatchOptions) (
	*metav1.PartialObjectMetadata, error,
) {
	return metadataOf(core(c.rest.Patch(kind), namespace, resource, name).SetHeader("Accept", metadataOnly).
		VersionedParams(&o, metav1.ParameterCodec).Body(body).Do(ctx))
}

func metadataOf(result rest.Result) (*metav1.PartialObjectMetadata, error) {
	object := &metav1.PartialObjectMetadata{}
	if err := into(result, object); err != nil {
		return nil, err
	}
	if object.Kind != "PartialObjectMetadata" {
		return nil, fmt.Errorf("the API server answered with %.40q in place of metadata", object.Kind)
	}
	return object, nil
}

// into reads an answer whose type the client does not know. Result.Into would need to; Result.Raw leaves out the API server's Status.
func into(result rest.Result, object any) error {
	if err := result.Error(); err != nil {
		return err
	}
	body, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, object); err != nil {
		return fmt.Errorf("the API server's answer is not readable: %w", err)
	}
	return nil
}

// class reads one class.
func (c client) class(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	class := &v1.SecretProviderClass{}
	if err := c.rest.Get().Namespace(namespace).Resource(classResource).Name(name).Do(ctx).Into(class); err != nil {
		return nil, err
	}
	return class, nil
}

// classPage is how many classes one answer holds.
const classPage = 500

// pageTries bounds how often one page is asked for.
const pageTries = 3

// eachPage lists the classes of a namespace, of all where it is empty, page by page. A page that fails is asked for again; where the
// API server has forgotten the state of the first page, the list goes on with the newest.
func (c client) eachPage(ctx context.Context, namespace string, take func(*v1.SecretProviderClassList) error) error {
	options := metav1.ListOptions{Limit: classPage}
	for {
		page, err := c.page(ctx, namespace, options)
		if err != nil {
			return err
		}
		if err := take(page); err != nil {
			return err
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

func (c client) page(ctx context.Context, namespace string, options metav1.ListOptions) (page *v1.SecretProviderClassList, err error) {
	for range pageTries {
		page = &v1.SecretProviderClassList{}
		err = c.rest.Get().Namespace(namespace).Resource(classResource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(page)
		status := apierrors.APIStatus(nil)
		switch answered := asStatus(err, &status); {
		case err == nil || ctx.Err() != nil:
			return page, err
		case apierrors.IsResourceExpired(err) && answered && status.Status().Continue != "":
			options.Continue = status.Status().Continue
		case answered && status.Status().Code < http.StatusInternalServerError && !apierrors.IsTooManyRequests(err):
			return nil, err
		}
	}
	return nil, err
}

// asStatus finds the API server's answer in an error.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }
