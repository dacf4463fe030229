package controlplane

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
)

// CreateNode makes a Node, unless it is there.
func (c *ControlPlane) CreateNode(name string) *corev1.Node {
	c.Helper()
	node, err := c.client.CoreV1().Nodes().Create(c.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil && c.existing != nil {
		c.madeNode(name)
	}
	if apierrors.IsAlreadyExists(err) {
		node, err = c.client.CoreV1().Nodes().Get(c.Context(), name, metav1.GetOptions{})
	}
	c.must(err)
	return node
}

// CreateServiceAccount makes a ServiceAccount, unless it is there.
func (c *ControlPlane) CreateServiceAccount(namespace, name string) {
	c.Helper()
	_, err := c.client.CoreV1().ServiceAccounts(namespace).Create(c.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		c.must(err)
	}
}

// CreatePod makes a Pod that is bound to a node, with its ServiceAccount where that is missing. Nothing runs it.
func (c *ControlPlane) CreatePod(namespace, name, node, serviceAccount string, edit ...func(*corev1.Pod)) *corev1.Pod {
	c.Helper()
	c.CreateServiceAccount(namespace, serviceAccount)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: serviceAccount,
			Containers:                    []corev1.Container{{Name: "app", Image: "app"}},
			TerminationGracePeriodSeconds: new(int64), // no kubelet confirms its end
		},
	}
	for _, f := range edit {
		f(pod)
	}
	pod, err := c.client.CoreV1().Pods(namespace).Create(c.Context(), pod, metav1.CreateOptions{})
	c.must(err)
	return pod
}

// OwnedBy makes an object the Pod's controller.
func OwnedBy(apiVersion, kind string, owner metav1.Object) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{
			APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes,
		})
	}
}

// WithLabels gives the Pod labels.
func WithLabels(labels map[string]string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		maps.Copy(p.Labels, labels)
	}
}

// boundToken is a token for an audience (the API server's own where empty), bound to a Pod and with it to the Pod's
// node.
func (c *ControlPlane) boundToken(pod *corev1.Pod, audience string) authenticationv1.TokenRequestStatus {
	c.Helper()
	lifetime := int64(time.Hour / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &lifetime,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	answer, err := c.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(c.Context(), pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	c.must(err)
	return answer.Status
}

// BoundKubeconfig is a kubeconfig file with a token of a ServiceAccount that is bound to a Pod of it: the API server
// knows the Pod's node from the token.
func (c *ControlPlane) BoundKubeconfig(namespace, serviceAccount, pod string) string {
	c.Helper()
	object, err := c.client.CoreV1().Pods(namespace).Get(c.Context(), pod, metav1.GetOptions{})
	c.must(err)
	if object.Spec.ServiceAccountName != serviceAccount {
		c.Fatalf("pod %s/%s runs as %s, not as %s", namespace, pod, object.Spec.ServiceAccountName, serviceAccount)
	}
	path := filepath.Join(c.TempDir(), fmt.Sprintf("%s.%s.kubeconfig", namespace, pod))
	c.must(c.writeKubeconfig(path, &clientcmdapi.AuthInfo{Token: c.boundToken(object, "").Token}))
	return path
}

// Tokens is what kubelet passes to a CSI driver for a Pod and some audiences, with real tokens of the API server.
func (c *ControlPlane) Tokens(pod *corev1.Pod, audiences ...string) string {
	c.Helper()
	if len(audiences) == 0 {
		audiences = []string{"api://AzureADTokenExchange"}
	}
	tokens := map[string]any{}
	for _, audience := range audiences {
		status := c.boundToken(pod, audience)
		tokens[audience] = map[string]any{"token": status.Token, "expirationTimestamp": status.ExpirationTimestamp.UTC().Format(time.RFC3339)}
	}
	text, err := json.Marshal(tokens)
	c.must(err)
	return string(text)
}

// TokenIssuer is the issuer of the API server's tokens, with the keys that verify them.
func (c *ControlPlane) TokenIssuer() emulator.Issuer {
	c.Helper()
	keys, err := c.client.Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").DoRaw(c.Context())
	c.must(err)
	if c.existing == nil {
		return emulator.Issuer{Issuer: Issuer, JWKS: string(keys)}
	}
	text, err := c.client.Discovery().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(c.Context())
	c.must(err)
	var document struct{ Issuer string }
	c.must(json.Unmarshal(text, &document))
	return emulator.Issuer{Issuer: document.Issuer, JWKS: string(keys)}
}
