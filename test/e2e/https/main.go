// Command https serves a greeting over TLS with /tls/tls.crt and /tls/tls.key, which it reads for each connection, on port 8443.
package main

import (
	"crypto/tls"
	"log"
	"net/http"
	"time"
)

func main() {
	server := &http.Server{
		Addr: ":8443", ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair("/tls/tls.crt", "/tls/tls.key")
			return &pair, err
		}},
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}
