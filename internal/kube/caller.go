package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// callerTimeout bounds each request of a person's tool.
const callerTimeout = pageTimeout

// Caller is a person's way to the API server, with the rights of their own credentials.
type Caller struct {
	api       client
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
		return nil, fmt.Errorf("credentials of the API server: set --kubeconfig or KUBECONFIG: %w", withoutCall(err))
	}
	config.UserAgent, config.Timeout = o.UserAgent, callerTimeout
	c := &Caller{}
	if c.namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("namespace of the kubeconfig: %w", err)
	}
	if c.api, err = newClient(config, clock.RealClock{}, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// withoutCall leaves out the name of the system call that failed.
func withoutCall(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
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
	class, err := c.api.class(ctx, namespace, name)
	if err == nil {
		return class, nil
	}
	if apierrors.IsNotFound(err) {
		return nil, &volume.Error{Reason: volume.ReasonClassNotFound, Cause: err, Message: fmt.Sprintf(
			"secretproviderclass %s/%s was not found: correct the name or --namespace, or check --context",
			namespace,
			name,
		)}
	}
	return nil, refused(fmt.Sprintf("secretproviderclass %s/%s", namespace, name), "get secretproviderclasses", err)
}

// Classes lists the names of the classes in a namespace.
func (c *Caller) Classes(ctx context.Context, namespace string) ([]string, error) {
	var names []string
	err := c.api.eachPage(ctx, namespace, func(page *v1.SecretProviderClassList) error {
		for i := range page.Items {
			names = append(names, page.Items[i].Name)
		}
		return nil
	})
	if err != nil {
		return names, refused("secretproviderclasses of "+namespace, "list secretproviderclasses", err)
	}
	return names, nil
}

// EachClass gives the classes of a namespace, of all where it is empty, until take fails. Where a page fails for good,
// those before it were given. Other errors are of type *volume.Error.
func (c *Caller) EachClass(ctx context.Context, namespace string, take func(*v1.SecretProviderClass) error) error {
	var stopped error
	err := c.api.eachPage(ctx, namespace, func(page *v1.SecretProviderClassList) error {
		for i := range page.Items {
			if stopped = take(&page.Items[i]); stopped != nil {
				return stopped
			}
		}
		return nil
	})
	switch {
	case stopped != nil:
		return stopped
	case apierrors.IsNotFound(err):
		return &volume.Error{
			Reason: volume.ReasonClassNotFound,
			Cause:  err,
			Message: "the cluster has no SecretProviderClasses: " +
				"its CustomResourceDefinitions are not installed, or --context is another cluster's",
		}
	case err != nil:
		return refused("secretproviderclasses", "list secretproviderclasses", err)
	}
	return nil
}

// ServiceAccounts lists the names of the service accounts in a namespace.
func (c *Caller) ServiceAccounts(ctx context.Context, namespace string) ([]string, error) {
	var list metav1.PartialObjectMetadataList
	err := into(core(c.api.rest.Get(), namespace, "serviceaccounts").
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").Do(ctx), &list)
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

// tokenRequest is the part of an authentication.k8s.io/v1 TokenRequest that is used.
type tokenRequest struct {
	APIVersion string           `json:"apiVersion"`
	Kind       string           `json:"kind"`
	Spec       tokenRequestSpec `json:"spec"`
	Status     struct {
		Token   string      `json:"token"`
		Expires metav1.Time `json:"expirationTimestamp"`
	} `json:"status"`
}

type tokenRequestSpec struct {
	Audiences         []string `json:"audiences"`
	ExpirationSeconds int64    `json:"expirationSeconds"`
}

// Token asks for a token of a service account, as kubelet would, with the caller's own rights. It lives ten minutes, or
// as long as the API server says. Errors are of type *volume.Error.
func (c *Caller) Token(ctx context.Context, namespace, serviceAccount, audience string) (volume.Token, error) {
	body, err := json.Marshal(tokenRequest{
		APIVersion: "authentication.k8s.io/v1",
		Kind:       "TokenRequest",
		Spec:       tokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: shortest},
	})
	if err != nil {
		return volume.Token{}, fmt.Errorf("token request: %w", err)
	}
	var answer tokenRequest
	err = into(
		core(c.api.rest.Post(), namespace, "serviceaccounts", serviceAccount, "token").Body(body).Do(ctx),
		&answer,
	)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return volume.Token{}, &volume.Error{Reason: volume.ReasonIdentity, Cause: err, Message: fmt.Sprintf(
				"service account %s/%s was not found: correct --service-account or --namespace",
				namespace,
				serviceAccount,
			)}
		}
		return volume.Token{}, refused(fmt.Sprintf("a token of service account %s/%s", namespace, serviceAccount),
			"create serviceaccounts/token", err)
	}
	return volume.Token{Value: answer.Status.Token, Expires: answer.Status.Expires.Time}, nil
}

// Annotations returns those of a service account. Errors are of type *volume.Error.
func (c *Caller) Annotations(ctx context.Context, namespace, name string) (map[string]string, error) {
	account, err := c.api.getMetadata(ctx, namespace, "serviceaccounts", name)
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
	return &volume.Error{
		Reason:  volume.ReasonNotReady,
		Cause:   err,
		Message: fmt.Sprintf("the API server did not give %s: %s", what, oneLine(err)),
	}
}
