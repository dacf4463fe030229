package node

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keyvault-csi/keyvault-csi-driver/driver"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/admin"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report"
	"github.com/keyvault-csi/keyvault-csi-driver/internal/report/logging"
	"github.com/keyvault-csi/keyvault-csi-driver/provider/limiter"
)

// adminServer answers the commands status and log-level.
type adminServer struct {
	driver    *driver.Driver
	limiters  func() []limiter.Snapshot
	recent    *report.Recent
	verbosity *logging.Verbosity
	started   time.Time
	log       *slog.Logger
}

func (a *adminServer) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+admin.StatusPath, a.status)
	mux.HandleFunc("GET "+admin.LogLevelPath, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, a.verbosity.Get())
	})
	mux.HandleFunc("PUT "+admin.LogLevelPath, a.setLogLevel)
	return mux
}

func (a *adminServer) status(w http.ResponseWriter, _ *http.Request) {
	s := admin.NodeStatus{
		Status: a.driver.Status(), Time: time.Now().UTC(), Started: a.started.UTC(), Ready: true,
		Hosts: a.limiters(), Troubles: a.recent.Problems(),
	}
	if err := a.driver.Ready(); err != nil {
		s.Ready, s.NotReady = false, err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s) // the client is gone
}

func (a *adminServer) setLogLevel(w http.ResponseWriter, r *http.Request) {
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
