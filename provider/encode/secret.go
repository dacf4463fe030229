package encode

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode/internal/pfx"
)

// The content types of certificate-backed secrets.
const (
	ContentTypePEM = "application/x-pem-file"
	ContentTypePFX = "application/x-pkcs12"
)

// Options say how a certificate-backed secret is written.
type Options struct {
	// PFX writes a PFX as it is (objectFormat: pfx) instead of turning it into PEM. PEM stays PEM.
	PFX bool
	// KeepOrder leaves the certificates of a PFX in its order instead of leaf to root. PEM always keeps its order.
	KeepOrder bool
	// Split fills Certificates and Keys too.
	Split bool
	// Encoding is the objectEncoding. It applies to values that are written as they are.
	Encoding string
}

// CertificateSecret is the value of a certificate-backed secret as it is written.
type CertificateSecret struct {
	// Main is the file.
	Main []byte
	// Certificates and Keys are the files beside it, nil unless asked for. They are PEM for every format of Main;
	// where a PFX that is written as it is cannot be read they are empty, with a warning.
	Certificates, Keys []byte
	// NotAfter is when the leaf certificate ends, zero where that is not known.
	NotAfter time.Time
	// Warnings are one line each.
	Warnings []string
}

// ConvertCertificateSecret turns the value of a certificate-backed secret into the bytes of its files. An empty content
// type means that the vault gave none: the value is recognised by what it holds.
//
// PEM, and with Options.PFX a PFX, is written as it is. Else a PFX becomes PEM: its private keys first (PKCS#8), then its
// certificates. Where these are no single chain they keep their order, with a warning.
func ConvertCertificateSecret(value, contentType string, options Options) (*CertificateSecret, error) {
	switch contentType {
	case ContentTypePEM:
		return pemSecret(value, options)
	case ContentTypePFX:
		return pfxSecret(value, options)
	case "":
	default:
		return nil, fmt.Errorf("content type %.60q is none of a certificate's (%s, %s): import the certificate again",
			contentType, ContentTypePEM, ContentTypePFX)
	}
	switch Recognise(value) {
	case PEM:
		return pemSecret(value, options)
	case PFX:
		return pfxSecret(value, options)
	case Unknown:
	}
	return nil, fmt.Errorf("the secret has no content type and its value is neither PEM nor PFX: set the content type to %s or %s, "+
		"or import the certificate again", ContentTypePEM, ContentTypePFX)
}

func pemSecret(value string, options Options) (*CertificateSecret, error) {
	main, err := Decode(value, options.Encoding)
	if err != nil {
		return nil, err
	}
	secret := &CertificateSecret{Main: main}
	secret.NotAfter, _ = LeafNotAfter(main)
	if options.Split {
		secret.Certificates, secret.Keys = SplitPEM([]byte(value))
	}
	return secret, nil
}

func pfxSecret(value string, options Options) (*CertificateSecret, error) {
	contents, err := readPFX(value)
	if options.PFX {
		main, decodeErr := Decode(value, options.Encoding)
		if decodeErr != nil {
			return nil, decodeErr
		}
		secret := &CertificateSecret{Main: main}
		if err != nil {
			if options.Split {
				secret.Certificates, secret.Keys = []byte{}, []byte{}
				secret.warn("the .crt and .key files are empty: " + err.Error())
			}
			return secret, nil
		}
		secret.NotAfter = leafOf(contents.Certificates, contents.Keys)
		if options.Split {
			return secret, secret.split(contents, options)
		}
		return secret, nil
	}
	switch {
	case err != nil:
		return nil, err
	case options.Encoding != "" && options.Encoding != EncodingUTF8:
		return nil, errors.New("objectEncoding " + options.Encoding + " does not fit a PFX that becomes PEM: remove objectEncoding, " +
			"or set objectFormat: pfx")
	}
	secret := &CertificateSecret{NotAfter: leafOf(contents.Certificates, contents.Keys)}
	if err := secret.split(contents, options); err != nil {
		return nil, err
	}
	secret.Main = append(append([]byte{}, secret.Keys...), secret.Certificates...)
	if !options.Split {
		secret.Certificates, secret.Keys = nil, nil
	}
	return secret, nil
}

// split fills Certificates and Keys.
func (s *CertificateSecret) split(contents *pfx.Contents, options Options) error {
	certificates := contents.Certificates
	if !options.KeepOrder {
		var warning string
		certificates, warning = orderChain(certificates, contents.Keys)
		s.warn(warning)
	}
	s.warn(skippedWarning(contents))
	s.Certificates = certificatesPEM(certificates)
	var err error
	s.Keys, err = keysPEM(contents.Keys)
	return err
}

func (s *CertificateSecret) warn(warning string) {
	if warning != "" {
		s.Warnings = append(s.Warnings, warning)
	}
}
