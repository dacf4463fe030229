package neterr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/volume"
)

// Classify returns the error as a user reads it. The host is who was to be reached.
func Classify(err error, host string) *volume.Error {
	if known, ok := errors.AsType[*volume.Error](err); ok {
		return known
	}
	e := &volume.Error{Reason: volume.ReasonNetwork, Cause: err}
	e.Reason, e.Message = explain(err, host)
	return e
}

func explain(err error, host string) (volume.Reason, string) {
	if refused, ok := errors.AsType[*connectError](err); ok {
		fix := "allow the host in the proxy, or check HTTPS_PROXY and NO_PROXY of the driver"
		if refused.status == http.StatusProxyAuthRequired {
			fix = "put user and password into HTTPS_PROXY of the driver"
		}
		return volume.ReasonProxy, fmt.Sprintf("the HTTP proxy refused the way to %s (%s): %s", host,
			strings.TrimSpace(fmt.Sprintf("%d %s", refused.status, http.StatusText(refused.status))), fix)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "proxyconnect" {
		return volume.ReasonProxy, fmt.Sprintf(
			"the HTTP proxy on the way to %s cannot be reached: check HTTPS_PROXY of the driver", host)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		if e.IsNotFound {
			return volume.ReasonDNS, fmt.Sprintf(
				"no address is known for %s: check the name, and the private DNS zone where "+
					"the vault has a private endpoint", host)
		}
		return volume.ReasonDNS, fmt.Sprintf("the DNS server did not answer for %s: check the node's DNS", host)
	}
	if message, ok := untrusted(err); ok {
		return volume.ReasonNetwork, fmt.Sprintf(
			"the certificate of %s is not trusted (%s): if a proxy inspects TLS, give its "+
				"authority to the driver with --ca-file", host, message)
	}
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return volume.ReasonNetwork, fmt.Sprintf("%s did not answer in time: check firewalls and routes from the node",
			host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return volume.ReasonNetwork, fmt.Sprintf("%s refused the connection: check firewalls and routes from the node",
			host)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return volume.ReasonNetwork, fmt.Sprintf("there is no route to %s: check firewalls and routes from the node",
			host)
	case broken(err):
		return volume.ReasonNetwork, fmt.Sprintf(
			"the connection to %s broke off: if it goes on, check proxies and firewalls on the way", host)
	}
	return volume.ReasonNetwork, fmt.Sprintf(
		"no request reached %s (%s): check firewalls, routes and TLS from the node", host, kind(err))
}

// Interrupted returns whether an answer broke off or ran out of time in its middle.
func Interrupted(err error) bool {
	timeout, isNet := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || isNet && timeout.Timeout() || broken(err)
}

// broken returns whether a connection broke; HTTP/2's own errors have no exported type.
func broken(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "stream error") ||
		strings.Contains(err.Error(), "connection error")
}

// connectError is a proxy's answer to CONNECT that is not 200.
type connectError struct{ status int }

// Error names the status. The proxy's own words are left out: they are free text.
func (e *connectError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status)))
}

// CheckConnect is for http.Transport's OnProxyConnectResponse. By itself the transport keeps only the proxy's reason
// phrase, which may be anything (RFC 9112, 4).
func CheckConnect(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &connectError{status: resp.StatusCode}
	}
	return nil
}

func untrusted(err error) (string, bool) {
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		err = e.Err
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "unknown authority", true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "it is for another host", true
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if e.Reason == x509.Expired {
			return "it is expired or not yet valid: check the node's clock", true
		}
		return "it is not valid", true
	}
	return "", false
}

// kind returns the innermost message, which holds no URL.
func kind(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	if len(text) > 120 {
		text = text[:120]
	}
	return text
}
