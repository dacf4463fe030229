package provider

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/class"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/vault"
)

// contents are the files that one version of an object makes.
type contents struct {
	files []volume.File
	// absent are the files of fields that do not exist, and may do so.
	absent   []string
	notAfter time.Time
	warnings []string
}

// newFile is a file that looks as the class says.
func newFile(look class.Look, file string, data []byte) volume.File {
	return volume.File{Path: file, Mode: look.Mode, Owner: look.Owner, Group: look.Group, GroupWins: look.GroupWins, Data: data}
}

func (f *fetch) contents(ctx context.Context, o *class.Object, got *vault.Object, file string) (c contents, err error) {
	one := func(data []byte) { c.files = append(c.files, newFile(o.Look, file, data)) }
	if !got.Enabled && o.Kind != class.Secret {
		// of a secret the vault refuses a disabled version; of a key or certificate it gives the public part
		c.warnings = append(c.warnings,
			"it is disabled in the vault, and mounted nevertheless: enable it, or name another version")
	}
	switch o.Kind {
	case class.Key:
		pem, err := encode.PublicKeyPEM(*got.Key)
		if err != nil {
			return c, err
		}
		one(pem)
	case class.Certificate:
		pem, err := encode.CertificatePEM(got.DER)
		if err != nil {
			return c, err
		}
		one(pem)
		if parsed, err := x509.ParseCertificate(got.DER); err == nil {
			c.notAfter = parsed.NotAfter
		}
	case class.Secret:
		return f.secret(ctx, o, got, file)
	}
	return c, nil
}

// secret makes the files of a secret.
func (f *fetch) secret(ctx context.Context, o *class.Object, got *vault.Object, file string) (c contents, err error) {
	switch {
	case o.Extract != nil:
		return f.extract(ctx, o, got.Value, file)
	case o.Format == class.CA:
		bundle, notAfter, err := encode.TrustBundle(got.Value, got.ContentType)
		if err != nil {
			return c, err
		}
		c.files, c.notAfter = []volume.File{newFile(o.Look, file, bundle)}, notAfter
		return c, nil
	case got.Certified || o.ConvertPFX && got.ContentType == encode.ContentTypePFX:
		return f.certificate(o, got, file)
	}
	data, err := encode.Decode(got.Value, string(o.Encoding))
	if err != nil {
		return c, err
	}
	c.files = []volume.File{newFile(o.Look, file, data)}
	return c, nil
}

// certificate makes the files of a secret that is the other side of a certificate.
func (f *fetch) certificate(o *class.Object, got *vault.Object, file string) (c contents, err error) {
	s, err := encode.ConvertCertificateSecret(got.Value, got.ContentType, encode.Options{
		PFX: o.Format == class.PFX, KeepOrder: f.provider.options.KeepCertificateOrder, Split: o.SplitCertAndKey,
		Encoding: string(o.Encoding),
	})
	if err != nil {
		return c, err
	}
	if o.SplitCertAndKey {
		c.files = append(c.files, newFile(o.Look, file+".crt", s.Certificates), newFile(o.Look, file+".key", s.Keys))
	}
	c.files = append(c.files, newFile(o.Look, file, s.Main))
	c.notAfter, c.warnings = s.NotAfter, s.Warnings
	return c, nil
}
