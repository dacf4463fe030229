package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

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

// client talks JSON to the API server about the project's own kinds, and about metadata of others. It knows no other
// types: a typed clientset would link those of all API groups.
type client struct {
	rest  rest.Interface
	clock clock.Clock
}

// newClient returns a client without a limit of its own: the API server's priority and fairness is the limiter, whose
// 429 and Retry-After are honoured. Wrap may be nil.
func newClient(config *rest.Config, clk clock.Clock, wrap func(http.RoundTripper) http.RoundTripper) (client, error) {
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
	return client{rest: made, clock: clk}, nil
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
func (c client) getMetadata(
	ctx context.Context,
	namespace, resource, name string,
) (*metav1.PartialObjectMetadata, error) {
	return metadataOf(core(c.rest.Get(), namespace, resource, name).SetHeader("Accept", metadataOnly).Do(ctx))
}

// namespace returns the metadata of a namespace.
func (c client) namespace(ctx context.Context, name string) (*metav1.PartialObjectMetadata, error) {
	return metadataOf(c.rest.Get().AbsPath("/api/v1/namespaces", name).SetHeader("Accept", metadataOnly).Do(ctx))
}

// patchMetadata patches an object and returns its metadata.
func (c client) patchMetadata(
	ctx context.Context,
	namespace, resource, name string,
	kind types.PatchType,
	body []byte,
	o metav1.PatchOptions,
) (
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

// into reads an answer whose type the client does not know. Result.Into would need to; Result.Raw leaves out the API
// server's Status.
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

const (
	// classPage is how many classes one answer holds, and smallestPage where the API server or the way to it is too
	// slow for that many, or the classes too large.
	classPage    = 500
	smallestPage = 25
	// pageTries bounds how often one page is asked for, pageTimeout each try, and pageWait is the first wait between
	// two, which doubles.
	pageTries   = 4
	pageTimeout = 30 * time.Second
	pageWait    = time.Second
)

// eachPage lists the classes of a namespace, of all where it is empty, page by page. A page that fails is asked for
// again, with fewer classes where it was too slow or too large; where the API server has forgotten the state of the
// first page, the list goes on with the newest. Take has the pages before the one that failed for good.
func (c client) eachPage(ctx context.Context, namespace string, take func(*v1.SecretProviderClassList) error) error {
	options := metav1.ListOptions{Limit: classPage}
	for {
		page, err := c.page(ctx, namespace, &options)
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

// page reads one page, and leaves in options what the next one is to be asked with.
func (c client) page(
	ctx context.Context,
	namespace string,
	options *metav1.ListOptions,
) (*v1.SecretProviderClassList, error) {
	for try := 1; ; try++ {
		page, err := c.tryPage(ctx, namespace, *options)
		status := apierrors.APIStatus(nil)
		switch answered := asStatus(err, &status); {
		case err == nil:
			return page, nil
		case ctx.Err() != nil || try == pageTries:
			return nil, err
		case apierrors.IsResourceExpired(err) && answered && status.Status().Continue != "":
			options.Continue = status.Status().Continue
			continue
		case answered && status.Status().Code < http.StatusInternalServerError && !apierrors.IsTooManyRequests(err):
			return nil, err
		case !answered || apierrors.IsTimeout(err):
			options.Limit = max(options.Limit/4, smallestPage)
		}
		if !c.pause(ctx, pageWait<<(try-1)) {
			return nil, err
		}
	}
}

func (c client) tryPage(
	ctx context.Context,
	namespace string,
	options metav1.ListOptions,
) (*v1.SecretProviderClassList, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	page := &v1.SecretProviderClassList{}
	err := c.rest.Get().
		Namespace(namespace).
		Resource(classResource).
		VersionedParams(&options, metav1.ParameterCodec).
		Do(ctx).
		Into(page)
	return page, err
}

// pause waits; it returns false where ctx ends first.
func (c client) pause(ctx context.Context, wait time.Duration) bool {
	timer := c.clock.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// asStatus finds the API server's answer in an error.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }
