//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyvault-csi/keyvault-csi-driver/test/cluster"
	"github.com/keyvault-csi/keyvault-csi-driver/test/emulator"
	"github.com/keyvault-csi/keyvault-csi-driver/test/kubelet"
)

// These are the scenarios that the suites of the Secrets Store CSI Driver and of its Azure provider have, as far as they can be seen without
// Azure: docs/migration.md has the table. Manifests are as people have them; what a Pod sees is read in its container.

// Principal gives a namespace a service principal, as the Secret that nodePublishSecretRef names, and returns its client id.
func (s *suite) Principal(namespace string) string {
	s.Helper()
	client := clientOf(namespace + "/principal")
	s.must(s.Emulator.Apply(emulator.Seed{Tenants: []emulator.Tenant{{ID: kubelet.Tenant, Applications: []emulator.Application{{
		ClientID: client, ObjectID: client, Secrets: []emulator.ClientSecret{{Value: "pass-phrase"}},
	}}}}}))
	s.must(s.Emulator.Grant(kubelet.Vault, client, "*"))
	s.MustKubectl("", "-n", namespace, "create", "secret", "generic", "secrets-store-creds",
		"--from-literal=clientid="+client, "--from-literal=clientsecret=pass-phrase")
	return client
}

// portable are a class and Deployments that use it, as manifests of the Secrets Store CSI Driver: version v1alpha1 of the class, a service
// principal, a Secret with a label, and a variable from it. Nothing in it names its namespace.
func portable(secret string, deployments ...string) string {
	text := fmt.Sprintf(`
apiVersion: secrets-store.csi.x-k8s.io/v1alpha1
kind: SecretProviderClass
metadata: {name: azure-sync}
spec:
  provider: azure
  secretObjects:
    - secretName: foosecret
      type: Opaque
      labels: {environment: test}
      data:
        - {objectName: secretalias, key: username}
  parameters:
    usePodIdentity: "false"
    keyvaultName: %s
    tenantId: %s
    objects: |
      array:
        - |
          objectName: %s
          objectType: secret
          objectAlias: secretalias
          objectVersion: ""
`, kubelet.Vault, kubelet.Tenant, secret)
	for _, name := range deployments {
		text += fmt.Sprintf(`
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: busybox
          image: %[2]s
          imagePullPolicy: Never
          args: ["trap exit TERM; while :; do sleep 1 & wait; done"]
          env:
            - name: SECRET_USERNAME
              valueFrom: {secretKeyRef: {name: foosecret, key: username}}
          volumeMounts:
            - {name: secrets-store-inline, mountPath: /mnt/secrets-store, readOnly: true}
      volumes:
        - name: secrets-store-inline
          csi:
            driver: secrets-store.csi.k8s.io
            readOnly: true
            volumeAttributes: {secretProviderClass: azure-sync}
            nodePublishSecretRef: {name: secrets-store-creds}
`, name, cluster.Busybox)
	}
	return text
}

// seen is what a container of a Deployment has: the file and the variable.
func (s *suite) seen(deployment string) string {
	s.Helper()
	return s.MustKubectl("", "-n", s.Namespace, "exec", "deployment/"+deployment, "--", "sh", "-c", `cat /mnt/secrets-store/secretalias; printf ' %s' "$SECRET_USERNAME"`)
}

// without waits until a Secret is gone, for a request by its name and for a list.
func (s *suite) without(secret string) {
	s.Helper()
	s.Eventually("the Secret "+secret+" to go", func() bool { return s.Synced(secret) == nil })
	if names := s.MustKubectl("", "-n", s.Namespace, "get", "secrets", "-o", "name"); strings.Contains(names, secret) {
		s.Errorf("a list has the Secret still: %s", names)
	}
}

// TestSeveralOwnersOfOneSecret has two Deployments of one class: their Secret belongs to both, and goes with the last of them.
func TestSeveralOwnersOfOneSecret(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Principal(s.Namespace)
	s.MustKubectl(portable(name, "one", "two"), "-n", s.Namespace, "apply", "-f", "-")
	s.await("deployment/one")
	s.await("deployment/two")
	for _, deployment := range []string{"one", "two"} {
		if got := s.seen(deployment); got != "s3cret s3cret" {
			t.Errorf("%s sees %q", deployment, got)
		}
	}
	var first *corev1.Secret
	s.Eventually("both owners", func() bool { first = s.Synced("foosecret"); return len(first.OwnerReferences) == 2 })
	if string(first.Data["username"]) != "s3cret" || first.Labels["environment"] != "test" || first.Labels["secrets-store.csi.k8s.io/managed"] != "true" ||
		!strings.Contains(owners(first), "ReplicaSet/one-") || !strings.Contains(owners(first), "ReplicaSet/two-") {
		t.Errorf("labels %v, owners %s", first.Labels, owners(first))
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "deployment", "one")
	s.Eventually("the owner to go", func() bool {
		secret := s.Synced("foosecret")
		if secret == nil || secret.UID != first.UID {
			t.Fatal("the Secret went with the first of its owners")
		}
		return len(secret.OwnerReferences) == 1 && strings.HasPrefix(owners(secret), "ReplicaSet/two-")
	})
	if got := s.seen("two"); got != "s3cret s3cret" {
		t.Errorf("the other Deployment sees %q", got)
	}
	s.MustKubectl("", "-n", s.Namespace, "delete", "deployment", "two")
	s.without("foosecret")
}

// TestSameManifestsInEveryNamespace applies the same manifests to two namespaces, each with a secret of its own, and Pods alone to a
// third: a class serves its own namespace and no other.
func TestSameManifestsInEveryNamespace(t *testing.T) {
	s := begin(t)
	second := *s
	second.Namespace = s.ControlPlane.Namespace()
	for _, here := range []*suite{s, &second} {
		name := here.Namespace + "-db"
		here.Secret(name, "of "+here.Namespace)
		here.Principal(here.Namespace)
		here.MustKubectl(portable(name, "web"), "-n", here.Namespace, "apply", "-f", "-")
	}
	for _, here := range []*suite{s, &second} {
		here.await("deployment/web")
		if got := here.seen("web"); got != "of "+here.Namespace+" of "+here.Namespace {
			t.Errorf("in %s the Pod sees %q", here.Namespace, got)
		}
		if secret := here.Synced("foosecret"); len(secret.OwnerReferences) != 1 {
			t.Errorf("in %s the owners are %s", here.Namespace, owners(secret))
		}
	}
	second.MustKubectl("", "-n", second.Namespace, "delete", "deployment", "web")
	second.without("foosecret")
	if s.Synced("foosecret") == nil {
		t.Error("the other namespace's Secret went too")
	}

	third := *s
	third.Namespace = s.ControlPlane.Namespace()
	third.Principal(third.Namespace)
	third.MustKubectl(portable("none", "web"), "-n", third.Namespace, "apply", "-f", "-")
	third.MustKubectl("", "-n", third.Namespace, "delete", "secretproviderclass", "azure-sync")
	third.MustKubectl("", "-n", third.Namespace, "delete", "pods", "--all", "--wait=false")
	third.Eventually("an event that names the class", func() bool {
		events := third.MustKubectl("", "-n", third.Namespace, "get", "events", "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
		for line := range strings.Lines(events) {
			_, after, ok := strings.Cut(line, "failed to get secretproviderclass "+third.Namespace+"/azure-sync")
			if ok && strings.HasPrefix(line, "FailedMount") && strings.Contains(after, "not found") {
				return true
			}
		}
		return false
	})
}

// TestDeletionInEveryOrder deletes a class under running Pods, then the Pods; Pods first; and a whole namespace at once. Pods go, their
// volumes and Secrets too, and a Pod without its class keeps its files.
func TestDeletionInEveryOrder(t *testing.T) {
	for name, order := range map[string]func(s *suite){
		"class first": func(s *suite) {
			s.MustKubectl("", "-n", s.Namespace, "delete", "secretproviderclass", "azure-sync")
			s.Eventually("the next call for the class to fail", func() bool {
				out := s.MustKubectl("", "-n", s.Namespace, "get", "events")
				return strings.Contains(out, "azure-sync") && strings.Contains(out, "not found")
			})
			if got := s.seen("web"); got != "s3cret s3cret" {
				s.Errorf("without the class the Pod sees %q", got)
			}
			s.MustKubectl("", "-n", s.Namespace, "delete", "deployment", "web")
		},
		"Pods first": func(s *suite) {
			s.MustKubectl("", "-n", s.Namespace, "delete", "deployment", "web")
			s.MustKubectl("", "-n", s.Namespace, "delete", "secretproviderclass", "azure-sync")
		},
		"all at once": func(s *suite) {
			s.MustKubectl("", "delete", "namespace", s.Namespace, "--timeout=120s")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			s.Secret(s.Namespace+"-db", "s3cret")
			s.Principal(s.Namespace)
			s.MustKubectl(portable(s.Namespace+"-db", "web"), "-n", s.Namespace, "apply", "-f", "-")
			s.await("deployment/web")
			uids := strings.Fields(s.MustKubectl("", "-n", s.Namespace, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"))
			order(s)
			s.without("foosecret")
			s.Eventually("the volumes of both Pods to go", func() bool {
				left := strings.Join(append(s.Volumes(), s.Leftovers()...), " ")
				return !strings.Contains(left, uids[0]) && !strings.Contains(left, uids[1])
			})
		})
	}
}

// TestSeveralClassesInOnePod has a Pod with two classes, each with a Secret and a variable from it. Each Secret is the Pod's, follows its
// own class and goes with the Pod.
func TestSeveralClassesInOnePod(t *testing.T) {
	s := begin(t)
	variables := func(p *corev1.PodSpec) {
		p.Volumes = append(p.Volumes, volume("more", "second"))
		p.Containers[0].VolumeMounts = append(p.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "more", MountPath: "/mnt/more", ReadOnly: true})
		for _, class := range []string{"first", "second"} {
			p.Containers[0].Env = append(p.Containers[0].Env, corev1.EnvVar{Name: "OF_" + class, ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "of-" + class}, Key: "value"},
			}})
		}
	}
	for _, class := range []string{"first", "second"} {
		s.Secret(s.Namespace+"-"+class, "value of "+class)
		s.Class(class, kubelet.Objects(s.Namespace+"-"+class), secretObject("of-"+class, "Opaque", "value", s.Namespace+"-"+class))
	}
	s.Pod("cart", "first", variables)
	s.Ready("cart")
	out, err := s.Run("cart", `printf '%s, %s, ' "$OF_first" "$OF_second"; cat `+mount+`/*; printf ', '; cat /mnt/more/*`)
	s.must(err)
	if out != "value of first, value of second, value of first, value of second" {
		t.Errorf("the Pod sees %q", out)
	}
	s.Secret(s.Namespace+"-second", "changed")
	s.Eventually("the second class's Secret to change", func() bool { return string(s.Synced("of-second").Data["value"]) == "changed" })
	if got := string(s.Synced("of-first").Data["value"]); got != "value of first" {
		t.Errorf("the first class's Secret holds %q", got)
	}
	for _, secret := range []string{"of-first", "of-second"} {
		if got := owners(s.Synced(secret)); got != "Pod/cart" {
			t.Errorf("owners of %s: %s", secret, got)
		}
	}
	s.Delete("cart")
	s.without("of-first")
	s.without("of-second")
}

// TestObjectsOfEveryKind has a Pod with secrets, keys and certificates in their formats, encodings, versions and modes, and rotates a
// certificate and a history under it.
func TestObjectsOfEveryKind(t *testing.T) {
	s := begin(t)
	plain, encoded, rsa, pfx, history := s.Namespace+"-plain", s.Namespace+"-hex", s.Namespace+"-rsa", s.Namespace+"-pfx", s.Namespace+"-history"
	pinned, err := s.Emulator.SetSecret(kubelet.Vault, emulator.Secret{Name: plain, Value: "one"})
	s.must(err)
	s.Secret(plain, "two")
	s.Secret(encoded, "00ff10")
	s.Secret(history, "h1")
	s.must(s.Emulator.SetKey(kubelet.Vault, emulator.Key{Name: rsa, Type: "RSA"}))
	s.must(s.Emulator.SetCertificate(kubelet.Vault, emulator.Certificate{Name: pfx, Subject: "one.example.com", Chain: 1}))
	pem := s.Namespace + "-pem"
	s.must(s.Emulator.SetCertificate(kubelet.Vault, emulator.Certificate{Name: pem, Subject: "pem.example.com", ContentType: "application/x-pem-file", KeyType: "EC"}))
	s.Class("web", fmt.Sprintf(`array:
- "{objectName: %[1]s, objectType: secret, objectAlias: plain, filePermission: '0440'}"
- "{objectName: %[1]s, objectType: secret, objectAlias: old/plain, objectVersion: %[2]s}"
- "{objectName: %[3]s, objectType: secret, objectAlias: binary, objectEncoding: hex}"
- "{objectName: %[4]s, objectType: key, objectAlias: key.pem}"
- "{objectName: %[5]s, objectType: cert, objectAlias: leaf.pem}"
- "{objectName: %[5]s, objectType: key, objectAlias: public.pem}"
- "{objectName: %[5]s, objectType: secret, objectAlias: pair.pem}"
- "{objectName: %[5]s, objectType: secret, objectAlias: pair.pfx, objectFormat: pfx, objectEncoding: base64}"
- "{objectName: %[6]s, objectType: secret, objectAlias: pem.pem}"
- "{objectName: %[7]s, objectType: secret, objectAlias: history, objectVersionHistory: 2}"
`, plain, pinned, encoded, rsa, pfx, pem, history))
	s.Pod("cart", "web")
	s.Ready("cart")

	out, err := s.Run("cart", "cd "+mount+"; stat -L -c '%a' plain old/plain; cat plain old/plain; od -An -tx1 binary; head -c 1 pair.pfx | od -An -tx1; ls history")
	s.must(err)
	if got := strings.Join(strings.Fields(out), " "); got != "440 644 twoone 00 ff 10 30 0" {
		t.Errorf("the Pod sees %q", got)
	}
	if subject := s.pair("cart", "pair.pem"); subject != "one.example.com" {
		t.Errorf("the certificate is that of %q", subject)
	}
	if subject := s.pair("cart", "pem.pem"); subject != "pem.example.com" {
		t.Errorf("the PEM certificate is that of %q", subject)
	}
	for _, key := range []string{"key.pem", "public.pem"} {
		if block := s.block("cart", key); block.Type != "PUBLIC KEY" {
			t.Errorf("%s is a %s", key, block.Type)
		}
	}
	leaf, err := x509.ParseCertificate(s.block("cart", "leaf.pem").Bytes)
	s.must(err)
	public, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	s.must(err)
	if leaf.Subject.CommonName != "one.example.com" || !bytes.Equal(public, s.block("cart", "public.pem").Bytes) {
		t.Errorf("the leaf is that of %q, or its key is another", leaf.Subject.CommonName)
	}

	s.must(s.Emulator.SetCertificate(kubelet.Vault, emulator.Certificate{Name: pfx, Subject: "two.example.com", Chain: 1}))
	s.Secret(history, "h2")
	s.Eventually("the renewed certificate", func() bool { return s.pair("cart", "pair.pem") == "two.example.com" })
	s.Eventually("the new version at the head of the history", func() bool {
		out, err := s.Run("cart", "cat "+mount+"/history/0 "+mount+"/history/1")
		return err == nil && out == "h2h1"
	})
}

// block is the one PEM block of a file.
func (s *suite) block(pod, path string) *pem.Block {
	s.Helper()
	block, rest := pem.Decode([]byte(s.Read(pod, path)))
	if block == nil || len(rest) > 0 {
		s.Fatalf("%s is not one PEM block", path)
	}
	return block
}

// pair is the subject of the certificate that a file holds with its key.
func (s *suite) pair(pod, path string) string {
	s.Helper()
	text := []byte(s.Read(pod, path))
	pair, err := tls.X509KeyPair(text, text)
	s.must(err)
	return pair.Leaf.Subject.CommonName
}

// TestIdentitiesOfServiceAccounts has two service accounts in one namespace: each Pod reads as its own identity, and what one may, the
// other may not.
func TestIdentitiesOfServiceAccounts(t *testing.T) {
	s := begin(t)
	name := s.Namespace + "-db"
	s.Secret(name, "s3cret")
	s.Class("web", kubelet.Objects(name))
	s.Class("other", kubelet.Objects(name))
	client := s.Federate(s.Namespace, "other", "keys/get")
	as := func(p *corev1.PodSpec) { p.ServiceAccountName = "other" }
	s.MustKubectl("", "-n", s.Namespace, "patch", "secretproviderclass", "other", "--type=merge", "-p", `{"spec":{"parameters":{"clientID":"`+client+`"}}}`)
	s.Pod("cart", "web")
	s.Pod("thief", "other", as)
	s.Pod("borrower", "web", as) // the client id of another service account
	s.Ready("cart")
	s.Eventually("the refusal by the vault", func() bool {
		return strings.Contains(s.Events("thief"), "FailedMount") && strings.Contains(s.Events("thief"), client)
	})
	s.Eventually("the refusal by Entra ID", func() bool {
		return strings.Contains(s.Events("borrower"), "FailedMount") && strings.Contains(s.Events("borrower"), "system:serviceaccount:"+s.Namespace+":other")
	})
	s.must(s.Emulator.Grant(kubelet.Vault, client, "secrets/get"))
	s.Ready("thief")
	if got := s.Read("cart", name) + s.Read("thief", name); got != "s3crets3cret" {
		t.Errorf("the Pods read %q", got)
	}
}

// TestCustomCloudOfAConfigMap has classes of Azure Stack as they are before a migration: they name the cloud's file by its absolute path in the
// provider's container, and the chart's cloudConfig has it there.
func TestCustomCloudOfAConfigMap(t *testing.T) {
	s := begin(t)
	const host = "vault.local.example"
	s.must(s.Emulator.Apply(emulator.Seed{
		VaultSuffixes: []string{host}, Authorities: []string{"adfs.local.example"},
		Tenants: []emulator.Tenant{{ID: "adfs", Applications: []emulator.Application{{
			ClientID: "stack", ObjectID: "stack", Secrets: []emulator.ClientSecret{{Value: "pass-phrase"}},
		}}}},
		Vaults: []emulator.Vault{{
			Name: s.Namespace, Suffix: host, Tenant: "adfs", Secrets: []emulator.Secret{{Name: "db", Value: "s3cret"}},
			Grants: []emulator.Grant{{ClientID: "stack", Permissions: []string{"secrets/get"}}},
		}},
	}))
	s.ApplyYAML(fmt.Sprintf(`
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: web, namespace: %[1]s}
spec:
  provider: azure
  parameters:
    keyvaultName: %[1]s
    tenantID: adfs
    cloudName: AzureStackCloud
    cloudEnvFileName: /etc/kubernetes/azurestackcloud.json
    objects: |
      array: ["{objectName: db, objectType: secret}"]
`, s.Namespace))
	s.MustKubectl("", "-n", s.Namespace, "create", "secret", "generic", "principal", "--from-literal=clientid=stack", "--from-literal=clientsecret=pass-phrase")
	s.Pod("cart", "web", func(p *corev1.PodSpec) {
		p.Volumes[0].CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "principal"}
	})
	s.Eventually("an event that names the chart's value", func() bool { return strings.Contains(s.Events("cart"), "cloudConfig.configMap") })

	s.MustKubectl("", "-n", system, "create", "configmap", "clouds", `--from-literal=azurestackcloud.json={"name":"Stack",`+
		`"activeDirectoryEndpoint":"https://adfs.local.example/","keyVaultDNSSuffix":"`+host+`"}`)
	t.Cleanup(func() {
		s.install()
		_, _ = s.Kubectl("", "-n", system, "delete", "configmap", "clouds")
	})
	s.install("--set", "cloudConfig.configMap=clouds")
	s.Ready("cart")
	if got := s.Read("cart", "db"); got != "s3cret" {
		t.Errorf("the Pod reads %q", got)
	}
	s.Gone("cart")
}
