package kube

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Caller is a person's way to the API server, with the rights of their own credentials.
type Caller struct {
	classes   rest.Interface
	core      corev1client.CoreV1Interface
	namespace string
}

// CallerOptions configure NewCaller; all may be left out.
type CallerOptions struct {
	// Kubeconfig is a file; where empty, those of KUBECONFIG, ~/.kube/config, or the pod's own service account.
	Kubeconfig string
	// Context is the kubeconfig's current one where empty, Namespace the context's.
	Context, Namespace string
	// UserAgent names the tool.
	UserAgent string
}

// NewCaller reads the credentials, as kubectl does. It makes no request.
func NewCaller(o CallerOptions) (*Caller, error) {
	loader := o.loader()
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("credentials of the API server: set --kubeconfig or KUBECONFIG: %w", err)
	}
	config.UserAgent, config.Timeout = o.UserAgent, requestTimeout
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c := &Caller{}
	if c.namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("namespace of the kubeconfig: %w", err)
	}
	if c.core, err = corev1client.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(groupVersion, &v1.SecretProviderClass{}, &v1.SecretProviderClassList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &groupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if c.classes, err = rest.RESTClientFor(config); err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return c, nil
}

// loader finds the kubeconfig as kubectl does.
func (o CallerOptions) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
}

// Contexts returns the names of the kubeconfig's contexts.
func (o CallerOptions) Contexts() ([]string, error) {
	config, err := o.loader().RawConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	names := make([]string, 0, len(config.Contexts))
	for name := range config.Contexts {
		names = append(names, name)
	}
	return names, nil
}

// Namespace is the one that is meant where none is named.
func (c *Caller) Namespace() string { return c.namespace }

// Class reads a class. Errors are of type *volume.Error.
func (c *Caller) Class(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	class := &v1.SecretProviderClass{}
	err := c.classes.Get().Namespace(namespace).Resource(classResource).Name(name).Do(ctx).Into(class)
	if err == nil {
		return class, nil
	}
	if apierrors.IsNotFound(err) {
		return nil, &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: fmt.Sprintf(
			"secretproviderclass %s/%s was not found: correct the name or --namespace, or check --context", namespace, name)}
	}
	return nil, refused(fmt.Sprintf("secretproviderclass %s/%s", namespace, name), "get secretproviderclasses", err)
}

// Classes lists the names of the classes in a namespace.
func (c *Caller) Classes(ctx context.Context, namespace string) ([]string, error) {
	list := &v1.SecretProviderClassList{}
	if err := c.classes.Get().Namespace(namespace).Resource(classResource).Do(ctx).Into(list); err != nil {
		return nil, refused("secretproviderclasses of "+namespace, "list secretproviderclasses", err)
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// page is how many classes one answer holds.
const page = 500

// EachClass gives the classes of a namespace, of all where it is empty, until take fails. Other errors are of type
// *volume.Error.
func (c *Caller) EachClass(ctx context.Context, namespace string, take func(*v1.SecretProviderClass) error) error {
	options := metav1.ListOptions{Limit: page}
	for {
		list := &v1.SecretProviderClassList{}
		err := c.classes.Get().Namespace(namespace).Resource(classResource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(list)
		if apierrors.IsNotFound(err) {
			return &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: "the cluster has no SecretProviderClasses: " +
				"its CustomResourceDefinitions are not installed, or --context is another cluster's"}
		}
		if err != nil {
			return refused("secretproviderclasses", "list secretproviderclasses", err)
		}
		for i := range list.Items {
			if err := take(&list.Items[i]); err != nil {
				return err
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return nil
		}
	}
}

// ServiceAccounts lists the names of the service accounts in a namespace.
func (c *Caller) ServiceAccounts(ctx context.Context, namespace string) ([]string, error) {
	list, err := c.core.ServiceAccounts(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, refused("service accounts of "+namespace, "list serviceaccounts", err)
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// shortest is the shortest life that the API server gives a token, in seconds.
const shortest = 600

// Token asks for a token of a service account, as kubelet would, with the caller's own rights. It lives ten minutes, or
// as long as the API server says. Errors are of type *volume.Error.
func (c *Caller) Token(ctx context.Context, namespace, serviceAccount, audience string) (volume.Token, error) {
	seconds := int64(shortest)
	answer, err := c.core.ServiceAccounts(namespace).CreateToken(ctx, serviceAccount, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return volume.Token{}, &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
				"service account %s/%s was not found: correct --service-account or --namespace", namespace, serviceAccount)}
		}
		return volume.Token{}, refused(fmt.Sprintf("a token of service account %s/%s", namespace, serviceAccount),
			"create serviceaccounts/token", err)
	}
	return volume.Token{Value: answer.Status.Token, Expires: answer.Status.ExpirationTimestamp.Time}, nil
}

// Annotations returns those of a service account. Errors are of type *volume.Error.
func (c *Caller) Annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	account, err := c.core.ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, refused(fmt.Sprintf("service account %s/%s", namespace, name), "get serviceaccounts", err)
	}
	return account.Annotations, nil
}

// refused says what the API server's refusal means for the person.
func refused(what, right string, err error) error {
	if apierrors.IsForbidden(err) {
		return &volume.Error{Reason: volume.ReasonPermission, Cause: err, Message: fmt.Sprintf(
			"the API server refuses you %s: ask for the right to %s (%s)", what, right, oneLine(err))}
	}
	return &volume.Error{Reason: volume.ReasonNotReady, Cause: err, Message: fmt.Sprintf("the API server did not give %s: %s", what, oneLine(err))}
}
