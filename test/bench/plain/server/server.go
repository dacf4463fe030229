// Package server asks Entra ID and Key Vault as the Azure provider for the Secrets Store CSI Driver does: see the program plain.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.yaml.in/yaml/v3"
)

// Server answers kubelet's calls.
type Server struct {
	csi.UnimplementedNodeServer

	// Classes is the directory of the classes, NAME.json each.
	Classes string
	// Transport is that of the Azure SDK if it is nil.
	Transport policy.Transporter
}

// class is what a SecretProviderClass holds, as far as this program reads it.
type class struct {
	Spec struct {
		Parameters struct {
			KeyvaultName string `json:"keyvaultName"`
			TenantID     string `json:"tenantID"`
			ClientID     string `json:"clientID"`
			Objects      string `json:"objects"`
		} `json:"parameters"`
	} `json:"spec"`
}

// names are those of the secrets of the class.
func (c *class) names() ([]string, error) {
	var list struct {
		Array []string `yaml:"array"`
	}
	if err := yaml.Unmarshal([]byte(c.Spec.Parameters.Objects), &list); err != nil {
		return nil, err
	}
	names := make([]string, len(list.Array))
	for i, text := range list.Array {
		var object struct {
			Name string `yaml:"objectName"`
		}
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			return nil, err
		}
		names[i] = object.Name
	}
	return names, nil
}

// NodePublishVolume writes the secrets of the class into the target, an ordinary directory.
func (s *Server) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	data, err := os.ReadFile(filepath.Join(s.Classes, r.GetVolumeContext()["secretProviderClass"]+".json"))
	if err != nil {
		return nil, err
	}
	var c class
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	client, err := s.client(&c, r.GetSecrets()["csi.storage.k8s.io/serviceAccount.tokens"])
	if err != nil {
		return nil, err
	}
	target := r.GetTargetPath()
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	for _, name := range names {
		secret, err := client.GetSecret(ctx, name, "", nil)
		if err != nil {
			return nil, err
		}
		if secret.Value == nil {
			return nil, fmt.Errorf("secret %s has no value", name)
		}
		if err := os.WriteFile(filepath.Join(target, name), []byte(*secret.Value), 0o600); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume removes what NodePublishVolume wrote.
func (s *Server) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(r.GetTargetPath())
}

// client is a new one with a new credential, as for each volume.
func (s *Server) client(c *class, tokens string) (*azsecrets.Client, error) {
	var audiences map[string]struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal([]byte(tokens), &audiences); err != nil {
		return nil, errors.New("the service account tokens are no JSON")
	}
	assertion := func(context.Context) (string, error) { return audiences["api://AzureADTokenExchange"].Token, nil }
	options, p := azcore.ClientOptions{Transport: s.Transport}, &c.Spec.Parameters
	credential, err := azidentity.NewClientAssertionCredential(p.TenantID, p.ClientID, assertion,
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: options})
	if err != nil {
		return nil, err
	}
	return azsecrets.NewClient("https://"+p.KeyvaultName+".vault.azure.net/", credential, &azsecrets.ClientOptions{ClientOptions: options})
}
