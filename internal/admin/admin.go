// Package admin is how people on a node talk to the driver there: what its loopback HTTP listener answers, and how it
// is asked.
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/internal/nodestatus"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// DefaultAddress is where the driver listens, and where `keyvault-csi status` and `log-level` connect to.
const DefaultAddress = "127.0.0.1:8096"

// The paths of the listener.
const (
	// StatusPath answers GET with a NodeStatus as JSON.
	StatusPath = "/status"
	// LogLevelPath answers GET with the log's verbosity, and sets it by PUT.
	LogLevelPath = "/loglevel"
)

// NodeStatus is what StatusPath answers. It holds no secret.
type NodeStatus struct {
	nodestatus.Status
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// NotReady says why volumes cannot be mounted; empty if they can.
	NotReady string `json:"notReady,omitempty"`
	// Hosts are the vaults and identity services, with their limiters.
	Hosts []limiter.Snapshot `json:"hosts"`
	// Troubles are the last failures, the newest first.
	Troubles []report.Problem `json:"troubles"`
}

// timeout bounds one request.
const timeout = 10 * time.Second

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 20

// Ask sends one request to the driver's listener and returns the body of the answer.
func Ask(ctx context.Context, addr, method, path, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addr = Loopback(addr)
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--admin-addr: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // without a proxy
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf(
			"the driver does not answer on %s: run this in the driver's container, and check the driver's --admin-addr: %w",
			addr,
			err,
		)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the driver's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the driver answered %d: %s", resp.StatusCode, strings.TrimSpace(string(text)))
	}
	return text, nil
}

// Loopback completes an address without a host to 127.0.0.1.
func Loopback(addr string) string {
	if strings.HasPrefix(addr, ":") {
		return "127.0.0.1" + addr
	}
	return addr
}

// CheckLoopback rejects the value of a flag that is not an address of this node alone. An empty one is accepted.
func CheckLoopback(flag, addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(Loopback(addr))
	if err != nil {
		return fmt.Errorf("%s %q is not host:port: %w", flag, addr, err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return errors.New(
			flag + " " + addr + " is not a loopback address: anyone who can connect to it sees which pod uses what; use " +
				DefaultAddress,
		)
	}
	return nil
}
