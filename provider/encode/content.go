package encode

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode/internal/pfx"
)

// Content is what the value of a certificate-backed secret holds.
type Content int

const (
	// Unknown is neither PEM nor PFX.
	Unknown Content = iota
	// PEM is text with at least one PEM block.
	PEM
	// PFX is a PKCS#12 file in base64.
	PFX
)

// Recognise returns what a value holds by looking at it. It does not promise that all of it can be read.
func Recognise(value string) Content {
	if looksLikePEM([]byte(value)) {
		return PEM
	}
	if der, err := decodePFXText(value); err == nil && pfx.Looks(der) {
		return PFX
	}
	return Unknown
}

// decodePFXText decodes the text that Key Vault keeps a PFX as.
func decodePFXText(value string) ([]byte, error) {
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return nil, errors.New("the value is no PFX in base64: import it as a certificate again, or correct the secret's content type")
	}
	return der, nil
}

// readPFX reads the PFX in a value.
func readPFX(value string) (*pfx.Contents, error) {
	der, err := decodePFXText(value)
	if err != nil {
		return nil, err
	}
	contents, err := pfx.Decode(der)
	if err != nil {
		return nil, err
	}
	if len(contents.Keys)+len(contents.Certificates) == 0 {
		return nil, errors.New("the PFX holds neither a key nor a certificate: import it again")
	}
	return contents, nil
}

// skippedWarning says what of a PFX has no place in PEM; empty where nothing was left out.
func skippedWarning(contents *pfx.Contents) string {
	if contents.Skipped == 0 {
		return ""
	}
	return fmt.Sprintf("the PFX holds things that are neither private keys nor certificates, which are left out: %d", contents.Skipped)
}
