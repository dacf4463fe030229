package encode_test

import (
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/provider/encode"
)

// BenchmarkPFXToPEM converts a key and a chain of three, as Key Vault and as the exporters write them.
func BenchmarkPFXToPEM(b *testing.B) {
	for _, file := range []string{"keyvault", "keyvault-ec", "openssl3", "java", "nil-password"} {
		b.Run(file, func(b *testing.B) {
			value := pfxValue(b, file)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := encode.ConvertCertificateSecret(value, encode.ContentTypePFX, encode.Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTLSKey splits the key from a PEM text.
func BenchmarkTLSKey(b *testing.B) {
	text := pki(b, "rsa.key", "rsa.pem", "intermediate.pem", "root.pem")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode.TLSKey(text); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublicKeyPEM converts an RSA key.
func BenchmarkPublicKeyPEM(b *testing.B) {
	key := encode.JWK{Kty: "RSA", N: fromBase64URL(b, rfcRSAModulus), E: []byte{1, 0, 1}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encode.PublicKeyPEM(key); err != nil {
			b.Fatal(err)
		}
	}
}
