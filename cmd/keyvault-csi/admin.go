package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/driver"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// defaultAdminAddr is where the driver listens for, and the verbs look for, what the admin listener answers.
const defaultAdminAddr = "127.0.0.1:8096"

// The paths of the admin listener.
const (
	statusPath   = "/status"
	logLevelPath = "/loglevel"
)

// nodeStatus is what /status answers. It holds no secret.
type nodeStatus struct {
	driver.Status
	Time    time.Time `json:"time"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// NotReady says why volumes cannot be mounted; empty where they can.
	NotReady string `json:"notReady,omitempty"`
	// Hosts are the vaults and identity services, with the pace that they bear.
	Hosts []limiter.Snapshot `json:"hosts"`
	// Troubles are what went wrong last, the newest first.
	Troubles []report.Trouble `json:"troubles"`
}

// admin answers people on the node.
type admin struct {
	driver    *driver.Driver
	limiters  func() []limiter.Snapshot
	recent    *report.Recent
	verbosity *logging.Verbosity
	started   time.Time
	log       *slog.Logger
}

func (a *admin) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, a.status)
	mux.HandleFunc("GET "+logLevelPath, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, a.verbosity.Get())
	})
	mux.HandleFunc("PUT "+logLevelPath, a.setLogLevel)
	return mux
}

func (a *admin) status(w http.ResponseWriter, _ *http.Request) {
	s := nodeStatus{
		Status: a.driver.Status(), Time: time.Now().UTC(), Started: a.started.UTC(), Ready: true,
		Hosts: a.limiters(), Troubles: a.recent.Troubles(),
	}
	if err := a.driver.Ready(); err != nil {
		s.Ready, s.NotReady = false, err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s) // whoever asked is gone
}

func (a *admin) setLogLevel(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(io.LimitReader(r.Body, 16))
	verbosity := 0
	if err == nil {
		verbosity, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("send a number from 0 to %d", logging.MostVerbose), http.StatusBadRequest)
		return
	}
	before := a.verbosity.Get()
	if err := a.verbosity.Set(verbosity); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.log.WarnContext(r.Context(), "the log's verbosity was changed", "from", before, "to", verbosity)
	_, _ = fmt.Fprintln(w, verbosity)
}

// checkLoopback refuses an address that others than this node could reach.
func checkLoopback(flag, addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(loopback(addr))
	if err != nil {
		return fmt.Errorf("%s %q is not host:port: %w", flag, addr, err)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return errors.New(flag + " " + addr + " is not a loopback address: who can reach it sees which pod uses what; use " + defaultAdminAddr)
	}
	return nil
}
