package classfile

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/keyvault-csi/keyvault-csi-driver/internal/api/v1"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// shopSet is a class and a Deployment that mounts it, without a finding.
const shopSet = shop + `    - secretName: shop-pull
      type: kubernetes.io/dockerconfigjson
      data:
        - objectName: db-password
          key: .dockerconfigjson
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: shop, namespace: web}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: web
spec:
  selector:
    matchLabels: {app: shop}
  template:
    metadata:
      labels: {app: shop}
    spec:
      serviceAccountName: shop
      imagePullSecrets:
        - name: shop-pull
      containers:
        - name: shop
          image: shop:1
          env:
            - name: PASSWORD
              valueFrom:
                secretKeyRef:
                  name: shop-db
                  key: password
          volumeMounts:
            - name: secrets
              mountPath: /secrets
              readOnly: true
            - name: config
              mountPath: /etc/shop
      volumes:
        - name: config
          configMap:
            name: shop
        - name: secrets
          csi:
            driver: secrets-store.csi.k8s.io
            readOnly: true
            volumeAttributes:
              secretProviderClass: shop
`

// inPod is the set with a bare Pod, in a CronJob, and so on, in place of the Deployment's head.
func as(kind, head string, indent int) string {
	before, pod, _ := strings.Cut(shopSet, "apiVersion: apps/v1\nkind: Deployment\n")
	_, pod, _ = strings.Cut(pod, "    spec:\n")
	var b strings.Builder
	for line := range strings.Lines(pod) {
		b.WriteString(strings.Repeat(" ", indent) + strings.TrimPrefix(line, "      "))
	}
	return before + "apiVersion: x/v1\nkind: " + kind + "\nmetadata: {name: shop, namespace: web}\n" + head + b.String()
}

func TestWorkloadsWithoutMistakes(t *testing.T) {
	for name, text := range map[string]string{
		"Deployment":  shopSet,
		"Pod":         as("Pod", "spec:\n", 2),
		"StatefulSet": as("StatefulSet", "spec:\n  template:\n    spec:\n", 6),
		"DaemonSet":   as("DaemonSet", "spec:\n  template:\n    spec:\n", 6),
		"ReplicaSet":  as("ReplicaSet", "spec:\n  template:\n    spec:\n", 6),
		"Job":         as("Job", "spec:\n  template:\n    spec:\n", 6),
		"CronJob":     as("CronJob", "spec:\n  jobTemplate:\n    spec:\n      template:\n        spec:\n", 10),
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(options(t), Rules{Lint: true})
			s.Add("f.yaml", []byte(text), true)
			if findings := s.Finish(t.Context(), nil); len(findings) > 0 || s.Classes != 1 || s.Workloads != 1 {
				t.Errorf("%d classes, %d workloads: %v", s.Classes, s.Workloads, findings)
			}
			// and its mistake is found in this kind too
			m := mistake{"secretProviderClass: shop", mark + "secretProviderClass: shpo", Warning, "volumes[1].csi.volumeAttributes.secretProviderClass", "shpo", "did you mean shop?"}
			m.check(t, text)
		})
	}
}

// What authors of workloads get wrong.
func TestMistakesInWorkloads(t *testing.T) {
	const (
		readOnly   = "            readOnly: true\n            volumeAttributes"
		attribute  = "              secretProviderClass: shop\n"
		mounts     = "            - name: secrets\n              mountPath: /secrets\n              readOnly: true\n"
		account    = "      serviceAccountName: shop\n"
		configPath = "              mountPath: /etc/shop\n"
	)
	for name, m := range map[string]mistake{
		"unknown class":               {attribute, mark + "              secretProviderClass: bank\n", Warning, "secretProviderClass", "bank", "write one of shop"},
		"class misspelt":              {attribute, mark + "              secretProviderClass: shopp\n", Warning, "secretProviderClass", "shopp", "did you mean shop?"},
		"class in upper case":         {attribute, mark + "              secretProviderClass: Shop\n", Error, "secretProviderClass", "Shop", "lower-case"},
		"class with its namespace":    {attribute, mark + "              secretProviderClass: web/shop\n", Error, "secretProviderClass", "web/shop", "name alone"},
		"empty class":                 {attribute, mark + "              secretProviderClass: \"\"\n", Error, "secretProviderClass", "", "write the name"},
		"class is a number":           {attribute, mark + "              secretProviderClass: 12\n", Error, "secretProviderClass", "12", `"12"`},
		"class of another namespace":  {"  name: shop\n  namespace: web\nspec:\n  selector", "  name: shop\n  namespace: bank\nspec:\n  selector", Warning, "", "", ""},
		"attribute in another case":   {attribute, mark + "              secretproviderclass: shop\n", Error, "secretproviderclass", "shop", "did you mean secretProviderClass?"},
		"attribute's long name":       {attribute, mark + "              secretProviderClassName: shop\n", Error, "secretProviderClassName", "shop", "did you mean secretProviderClass?"},
		"unknown attribute":           {attribute, attribute + mark + "              keyVaultName: contoso\n", Warning, "keyVaultName", "contoso", "did you mean keyvaultName?"},
		"attribute of no use":         {attribute, attribute + mark + "              mountOptions: x\n", Warning, "mountOptions", "x", "remove it"},
		"wrong value of an attribute": {attribute, attribute + mark + "              rotationInterval: often\n", Error, "rotationInterval", "often", "30s, 2m or 1h"},
		"attribute is a boolean":      {attribute, attribute + mark + "              useVMManagedIdentity: true\n", Error, "useVMManagedIdentity", "true", `"true"`},
		"no attributes":               {"            volumeAttributes:\n" + attribute, "", Error, "", "", ""},
		"attributes misspelt":         {"            volumeAttributes:\n", mark + "            volumeAttribute:\n", Error, "csi.volumeAttribute", "", "did you mean volumeAttributes?"},
		"no readOnly":                 {"            driver: secrets-store.csi.k8s.io\n            readOnly: true\n", mark + "            driver: secrets-store.csi.k8s.io\n", Error, "csi.readOnly", "", "readOnly: true"},
		"readOnly is false":           {readOnly, mark + "            readOnly: false\n            volumeAttributes", Error, "csi.readOnly", "false", "readOnly: true"},
		"readOnly in quotes":          {readOnly, mark + "            readOnly: \"true\"\n            volumeAttributes", Error, "csi.readOnly", "true", "without quotes"},
		"readOnly in another case":    {readOnly, mark + "            readonly: true\n            volumeAttributes", Error, "csi.readonly", "true", "did you mean readOnly?"},
		"readOnly among attributes":   {attribute, attribute + mark + "              readOnly: \"true\"\n", Error, "volumeAttributes.readOnly", "true", "beside volumeAttributes"},
		"driver misspelt":             {"driver: secrets-store.csi.k8s.io", mark + "driver: secret-store.csi.k8s.io", Error, "csi.driver", "secret-store.csi.k8s.io", "secrets-store.csi.k8s.io"},
		"driver by its API group":     {"driver: secrets-store.csi.k8s.io", mark + "driver: secrets-store.csi.x-k8s.io", Error, "csi.driver", "secrets-store.csi.x-k8s.io", "secrets-store.csi.k8s.io"},
		"another driver":              {"driver: secrets-store.csi.k8s.io", mark + "driver: keyvault.csi.azure.com", Warning, "csi.driver", "keyvault.csi.azure.com", "--driver-name"},
		"csi misspelt":                {"          csi:\n            driver", mark + "          cis:\n            driver", Error, "volumes[1].cis", "", "did you mean csi?"},
		"no csi":                      {"          csi:\n            driver: secrets-store.csi.k8s.io\n            readOnly: true\n            volumeAttributes:\n", "          driver: secrets-store.csi.k8s.io\n" + mark + "          volumeAttributes:\n", Error, "volumes[1].volumeAttributes", "", "below csi"},
		"secret reference's field":    {readOnly, "            nodePublishSecretRef:\n" + mark + "              secretName: creds\n" + readOnly, Error, "nodePublishSecretRef.secretName", "creds", "did you mean name?"},
		"secret reference's place":    {attribute, attribute + mark + "              nodePublishSecretRef: creds\n", Error, "volumeAttributes.nodePublishSecretRef", "creds", "below csi"},
		"not mounted":                 {mounts, "", Warning, "", "", ""},
		"mount of another name":       {"            - name: secrets\n", mark + "            - name: secret\n", Error, "volumeMounts[0].name", "secret", "did you mean secrets?"},
		"volumeMounts misspelt":       {"          volumeMounts:\n", mark + "          volumemounts:\n", Error, "volumemounts", "", "did you mean volumeMounts?"},
		"volumes misspelt":            {"      containers:\n", mark + "      container:\n", Error, "container", "", "did you mean containers?"},
		"mount's path misspelt":       {"              mountPath: /secrets\n", mark + "              mountpath: /secrets\n", Error, "mountpath", "/secrets", "did you mean mountPath?"},
		"relative mount":              {"              mountPath: /secrets\n", mark + "              mountPath: secrets\n", Warning, "volumeMounts[0].mountPath", "secrets", "/secrets"},
		"mount over /etc":             {"              mountPath: /secrets\n", mark + "              mountPath: /etc\n", Warning, "volumeMounts[0].mountPath", "/etc", "directory of its own"},
		"mount over the token":        {"              mountPath: /secrets\n", mark + "              mountPath: /var/run/secrets/\n", Warning, "volumeMounts[0].mountPath", "/var/run/secrets/", "directory of its own"},
		"two at one path":             {configPath, mark + "              mountPath: /secrets/\n", Error, "volumeMounts[1].mountPath", "/secrets/", "of its own"},
		"below a configMap":           {"              mountPath: /secrets\n", mark + "              mountPath: /etc/shop/secrets\n", Warning, "volumeMounts[0].mountPath", "/etc/shop/secrets", "beside /etc/shop"},
		"a configMap below":           {configPath, mark + "              mountPath: /secrets/config\n", Warning, "volumeMounts[1].mountPath", "/secrets/config", "beside /secrets"},
		"sub-path":                    {"              readOnly: true\n            - name: config", mark + "              subPath: db-password\n            - name: config", Warning, "subPath", "db-password", "whole volume"},
		"Secret that no class makes":  {"                  name: shop-db\n", mark + "                  name: bank-db\n", Warning, "secretKeyRef.name", "bank-db", "secretObjects"},
		"Secret misspelt":             {"                  name: shop-db\n", mark + "                  name: shop-bd\n", Warning, "secretKeyRef.name", "shop-bd", "did you mean shop-db?"},
		"Secret's key misspelt":       {"                  key: password\n", mark + "                  key: passwd\n", Warning, "secretKeyRef.key", "passwd", "password"},
		"all of a Secret":             {"          volumeMounts:\n", "          envFrom:\n            - secretRef:\n" + mark + "                name: shop-env\n          volumeMounts:\n", Warning, "envFrom[0].secretRef.name", "shop-env", "secretObjects"},
		"pull secret misspelt":        {"        - name: shop-pull\n", mark + "        - name: shop-pul\n", Warning, "imagePullSecrets[0].name", "shop-pul", "did you mean shop-pull?"},
		"pull secret's type":          {"        - name: shop-pull\n", mark + "        - name: shop-db\n", Warning, "imagePullSecrets[0].name", "shop-db", "dockerconfigjson"},
		"volume of a Secret":          {"          configMap:\n            name: shop\n", "          secret:\n" + mark + "            secretName: shop-dbs\n", Warning, "volumes[0].secret.secretName", "shop-dbs", "did you mean shop-db?"},
		"no identity":                 {"    clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa\n", "", Error, "", "", ""},
		"mode for root alone":         {"      containers:\n", "      securityContext:\n" + mark + "        runAsUser: 1000\n      containers:\n", Warning, "", "", ""},
		"a key twice":                 {account, account + mark + account, Error, "spec.template.spec.serviceAccountName", "shop", "remove one"},
	} {
		t.Run(name, func(t *testing.T) {
			good := shopSet
			switch name { // the line that is wrong is not that of what is replaced
			case "class of another namespace":
				good = strings.Replace(good, attribute, mark+attribute, 1)
				m.field, m.value, m.fix = "secretProviderClass", "shop", "in the Pod's namespace"
			case "no attributes":
				good = strings.Replace(good, "            driver: sec", mark+"            driver: sec", 1)
				m.field, m.fix = "csi.volumeAttributes", "secretProviderClass: NAME"
			case "not mounted":
				good = strings.Replace(good, "            driver: sec", mark+"            driver: sec", 1)
				m.field, m.value, m.fix = "volumes[1].name", "secrets", "volumeMounts"
			case "no identity":
				good = strings.Replace(good, account, mark+account, 1)
				m.field, m.value, m.fix = "spec.template.spec.serviceAccountName", "shop", "clientID in the class"
			case "mode for root alone":
				good = strings.Replace(good, "          objectType: secret\n", "          objectType: secret\n          filePermission: \"0400\"\n", 1)
				m.field, m.value, m.fix = "securityContext.runAsUser", "1000", "fsGroup"
			}
			m.check(t, good)
		})
	}
}

func TestPersistentVolumesAreNotServed(t *testing.T) {
	findings := lint(t, "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v}\nspec:\n  csi:\n    driver: secrets-store.csi.k8s.io\n")
	if len(findings) != 1 || findings[0].Line != 6 || findings[0].Severity != Error || !strings.Contains(findings[0].Fix, "without a PersistentVolume") {
		t.Error(findings)
	}
}

// What has nothing to do with classes gives no finding, and is not counted.
func TestOtherWorkloadsAreIgnored(t *testing.T) {
	for name, text := range map[string]string{
		"Pod without volumes":  "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, envFrom: [{secretRef: {name: other}}]}\n",
		"another CSI driver":   "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  volumes:\n  - {name: v, csi: {driver: csi.cert-manager.io, volumeAttributes: {a: b}}}\n",
		"broken Pod":           "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: [x]\n",
		"empty Deployment":     "apiVersion: apps/v1\nkind: Deployment\n",
		"custom resource":      "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: p}\n",
		"volumes are no list":  "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {volumes: {a: b}, containers: x}\n",
		"ServiceAccount alone": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: p}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(options(t), Rules{Lint: true})
			s.Add("f.yaml", []byte(text), true)
			if findings := s.Finish(t.Context(), nil); len(findings) > 0 || s.Workloads != 0 {
				t.Errorf("%d workloads: %v", s.Workloads, findings)
			}
		})
	}
}

// A Secret of a manifest, or one that another controller makes of a manifest, is no mistake.
func TestSecretsOfOthersAreKnown(t *testing.T) {
	text := strings.Replace(shopSet, "                  name: shop-db\n", "                  name: bank-db\n", 1)
	for _, other := range []string{
		"apiVersion: v1\nkind: Secret\nmetadata: {name: bank-db, namespace: web}\n",
		"apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nmetadata: {name: x}\nspec: {target: {name: bank-db}}\n",
		"apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: bank-db}\n",
		"apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: x}\nspec: {secretName: bank-db}\n",
	} {
		if findings := lint(t, text+"---\n"+other); len(findings) > 0 {
			t.Errorf("with %s: %v", other, findings)
		}
	}
	if findings := lint(t, strings.Replace(text, "                  key: password\n", "                  key: password\n                  optional: true\n", 1)); len(findings) > 0 {
		t.Errorf("optional: %v", findings)
	}
}

// Where ServiceAccounts may name the identity, the annotation decides.
func TestServiceAccountsThatNameTheIdentity(t *testing.T) {
	without := strings.Replace(shopSet, "    clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa\n", "", 1)
	annotated := func(key string) string {
		return strings.Replace(without, "kind: ServiceAccount\nmetadata: {name: shop, namespace: web}",
			"kind: ServiceAccount\nmetadata: {name: shop, namespace: web, annotations: {"+key+": 66666666-7777-8888-9999-aaaaaaaaaaaa}}", 1)
	}
	for name, tc := range map[string]struct {
		text string
		flag bool
		want string
	}{
		"annotated, and the flag":       {annotated("azure.workload.identity/client-id"), true, ""},
		"annotated, without the flag":   {annotated("azure.workload.identity/client-id"), false, "warning: deployment web/shop: spec.template.spec.serviceAccountName \"shop\" has the annotation azure.workload.identity/client-id, which counts only"},
		"misspelt annotation":           {annotated("azure.workload.identity/clientid"), true, "error: deployment web/shop: spec.template.spec.serviceAccountName \"shop\" has the annotation \"azure.workload.identity/clientid\", which means nothing"},
		"no annotation":                 {without, true, "error: deployment web/shop: spec.template.spec.serviceAccountName \"shop\" is a service account without the annotation azure.workload.identity/client-id"},
		"no account":                    {strings.Replace(without, "kind: ServiceAccount", "kind: ConfigMap", 1), true, "warning: deployment web/shop: spec.template.spec.serviceAccountName \"shop\" is a service account that must name the identity"},
		"service principal of a Secret": {strings.Replace(without, "            readOnly: true\n            vol", "            readOnly: true\n            nodePublishSecretRef: {name: creds}\n            vol", 1), false, ""},
		"client of the attributes":      {without + "              clientID: 66666666-7777-8888-9999-aaaaaaaaaaaa\n", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(options(t), Rules{Lint: true, Annotations: tc.flag})
			s.Add("f.yaml", []byte(tc.text), true)
			findings := s.Finish(t.Context(), nil)
			if tc.want == "" && len(findings) > 0 || tc.want != "" && (len(findings) != 1 || !strings.Contains(findings[0].String(), tc.want)) {
				t.Errorf("got %v", findings)
			}
		})
	}
}

// The same class in one directory is a warning; in two directories, such as two overlays, a note.
func TestTheSameClassTwice(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second string
		want          Severity
	}{
		"in a file":           {"a.yaml", "a.yaml", Warning},
		"in a directory":      {"d/a.yaml", "d/b.yaml", Warning},
		"in two directories":  {"dev/a.yaml", "prod/a.yaml", Note},
		"in two other places": {"a.yaml", "prod/a.yaml", Note},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(options(t), Rules{Lint: true})
			s.Add(tc.first, []byte(shop), false)
			s.Add(tc.second, []byte(shop), false)
			findings := s.Finish(t.Context(), nil)
			if len(findings) != 1 || findings[0].Severity != tc.want || findings[0].File != tc.second || findings[0].Line != 4 || findings[0].Field != "metadata.name" ||
				findings[0].Value != "shop" {
				t.Errorf("got %+v", findings)
			}
		})
	}
}

// liveCluster has one class and one ServiceAccount.
type liveCluster struct{}

func (liveCluster) Namespace() string { return "web" }

func (liveCluster) Class(_ context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	switch namespace + "/" + name {
	case "web/live":
		return &v1.SecretProviderClass{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: v1.SecretProviderClassSpec{
				Provider: "azure", Parameters: map[string]string{"keyvaultName": "contoso", "tenantID": "11111111-2222-3333-4444-555555555555", "objects": "array:\n- |\n  objectName: db\n  objectType: secret\n"},
				SecretObjects: []v1.SecretObject{{SecretName: "shop-db"}, {SecretName: "shop-pull", Type: "kubernetes.io/dockerconfigjson"}},
			},
		}, nil
	case "web/forbidden":
		return nil, &volume.Error{Reason: volume.ReasonPermission, Message: "you may not"}
	}
	return nil, &volume.Error{Reason: volume.ReasonClassNotFound, Message: "not found"}
}

func (liveCluster) Annotations(_ context.Context, _, name string) (map[string]string, error) {
	if name == "shop" {
		return map[string]string{"azure.workload.identity/client-id": "66666666-7777-8888-9999-aaaaaaaaaaaa"}, nil
	}
	return nil, &volume.Error{Reason: volume.ReasonIdentity, Message: "not found"}
}

func TestClassesOfTheCluster(t *testing.T) {
	_, deployment, _ := strings.Cut(shopSet, "---\napiVersion: apps/v1")
	deployment = "apiVersion: apps/v1" + strings.Replace(deployment, "  namespace: web\n", "", 1)
	for class, want := range map[string][]string{
		"live":      {`warning secretKeyRef.key "password" db`},
		"forbidden": {`warning secretProviderClass "forbidden"`},
		"gone":      {`error secretProviderClass "gone" create the class in the Pod's namespace`},
	} {
		t.Run(class, func(t *testing.T) {
			s := NewSet(options(t), Rules{Lint: true, Annotations: true})
			s.Add("f.yaml", []byte(strings.Replace(deployment, "secretProviderClass: shop", "secretProviderClass: "+class, 1)), true)
			var got []string
			for _, f := range s.Finish(t.Context(), liveCluster{}) {
				if strings.Contains(f.Field, "secretProviderClass") || strings.Contains(f.Field, "key") {
					got = append(got, fmt.Sprintf("%s %s %q %s", f.Severity, f.Field, f.Value, f.Fix))
				}
			}
			if len(got) != len(want) {
				t.Fatalf("got %q", got)
			}
			for i := range want {
				for part := range strings.FieldsSeq(want[i]) {
					if !strings.Contains(got[i], part) {
						t.Errorf("%q lacks %q", got[i], part)
					}
				}
			}
		})
	}
}
